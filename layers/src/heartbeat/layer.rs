//! The layer.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::HeartbeatService;
use crate::order;
use crate::service::{Hook, Selector};
use crate::{Dialect, LlmRequest, Operation};

/// Sends heartbeats before the first byte of event streams; see the [module](super).
#[derive(Clone, Debug)]
pub struct HeartbeatLayer {
    pub(super) every: Option<Duration>,
    pub(super) is_event_stream: Option<Selector>,
}

/// The interval of one request's heartbeats, in place of the layer's: a request extension, which an
/// outer layer or a handler inserts. `None` for no heartbeats.
///
/// ```
/// use std::time::Duration;
///
/// use http::Request;
/// use llamatower_layers::heartbeat::HeartbeatInterval;
///
/// let mut request = Request::new(());
/// let interval = HeartbeatInterval(Some(Duration::from_secs(5)));
/// request.extensions_mut().insert(interval);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatInterval(pub Option<Duration>);

impl HeartbeatLayer {
    /// Sends a heartbeat after each `every` without data; `None` for none, except for requests with a
    /// [`HeartbeatInterval`].
    pub fn new(every: impl Into<Option<Duration>>) -> Self {
        Self {
            every: every.into(),
            is_event_stream: None,
        }
    }

    /// Selects the requests with an event stream as response. By default,
    /// [`LlmRequestLayer`](crate::llm_request::LlmRequestLayer) determines them.
    pub fn with_requests(
        mut self,
        is_event_stream: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.is_event_stream = Some(Hook(Arc::new(is_event_stream)));
        self
    }
}

pub(super) fn is_event_stream(head: &Parts) -> bool {
    use Dialect::{Anthropic, OpenAi, Responses};
    LlmRequest::of(&head.extensions).is_some_and(|request| {
        request.stream
            && matches!(request.operation, Operation::Chat | Operation::Generate)
            && matches!(request.dialect, Anthropic | OpenAi | Responses)
    })
}

impl<S> Layer<S> for HeartbeatLayer {
    type Service = HeartbeatService<S>;

    fn layer(&self, inner: S) -> HeartbeatService<S> {
        order::check::<S>("Heartbeat");
        HeartbeatService {
            inner,
            layer: self.clone(),
        }
    }
}
