//! The layer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tower_layer::Layer;

use super::RescueService;
use super::report::Hook;

/// Makes answers of errors, and error frames of broken streams; see the [module](super).
#[derive(Clone, Debug)]
pub struct RescueLayer {
    cutoff: Option<Arc<CancellationToken>>,
    hook: Hook,
}

impl RescueLayer {
    /// No cutoff, and nobody is told of errors but the client and the request's
    /// [`Record`](crate::Record).
    pub fn new() -> Self {
        Self {
            cutoff: None,
            hook: |_| {},
        }
    }

    /// Ends what is under way with [`ShuttingDown`](super::ShuttingDown) when `cutoff` is
    /// cancelled: at once where a backend is waited for, between two items where a client is.
    ///
    /// A client that does not read is not noticed here; whoever holds its socket must end it.
    pub fn with_cutoff(mut self, cutoff: CancellationToken) -> Self {
        self.cutoff = Some(Arc::new(cutoff));
        self
    }

    /// Calls `hook` with each error before the client is told of it: the place for a log, as
    /// clients are told nothing of errors that are no [`Failure`](crate::Failure).
    pub fn with_hook(mut self, hook: fn(&(dyn std::error::Error + Send + Sync + 'static))) -> Self {
        self.hook = hook;
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
        RescueService::new(inner, self.cutoff.clone(), self.hook)
    }
}
