//! The layer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tower_layer::Layer;

use super::RescueService;
use super::report::Options;
use crate::order;
use crate::service::Hook;

/// Turns errors into responses, and adds error frames to broken streams; see the [module](super).
#[derive(Clone, Debug)]
pub struct RescueLayer {
    cutoff: Option<Arc<CancellationToken>>,
    options: Options,
}

impl RescueLayer {
    /// Without a cutoff and without a hook: errors go only to the client and the request's
    /// [`Record`](crate::Record).
    pub fn new() -> Self {
        Self {
            cutoff: None,
            options: Options {
                hook: None,
                ends_cleanly: false,
            },
        }
    }

    /// Ends requests with [`ShuttingDown`](super::ShuttingDown) when `cutoff` is cancelled: at once
    /// while they wait for a backend, between two items while they wait for the client.
    ///
    /// It does not notice a client that does not read; the owner of the client's socket must close
    /// it.
    pub fn with_cutoff(mut self, cutoff: CancellationToken) -> Self {
        self.cutoff = Some(Arc::new(cutoff));
        self
    }

    /// Calls `hook` with each error before the client's response. Use it for a log, because clients
    /// get no details of errors that are not a [`Failure`](crate::Failure).
    pub fn with_hook(
        mut self,
        hook: impl Fn(&(dyn std::error::Error + Send + Sync + 'static)) + Send + Sync + 'static,
    ) -> Self {
        self.options.hook = Some(Hook(Arc::new(hook)));
        self
    }

    /// Ends a stream cleanly after its error frame, for clients that always read such frames.
    ///
    /// Without this, the body fails after the frame with a [`BrokenStream`](super::BrokenStream),
    /// so that the connection ends uncleanly: some clients skip the frame and treat a clean end as
    /// the end of a complete response. Over HTTP/2, a failing body resets its stream, and the reset
    /// may overtake the frame.
    pub fn with_clean_ends(mut self) -> Self {
        self.options.ends_cleanly = true;
        self
    }
}

impl Default for RescueLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = RescueService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("Rescue");
        RescueService {
            inner,
            cutoff: self.cutoff.clone(),
            options: self.options.clone(),
            unready: None,
        }
    }
}
