//! The layer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tower_layer::Layer;

use super::RescueService;
use super::report::Options;

/// Makes answers of errors, and error frames of broken streams; see the [module](super).
#[derive(Clone, Debug)]
pub struct RescueLayer {
    cutoff: Option<Arc<CancellationToken>>,
    options: Options,
}

impl RescueLayer {
    /// No cutoff, and nobody is told of errors but the client and the request's
    /// [`Record`](crate::Record).
    pub fn new() -> Self {
        Self {
            cutoff: None,
            options: Options {
                hook: |_| {},
                ends_cleanly: false,
            },
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
        self.options.hook = hook;
        self
    }

    /// Ends a stream cleanly after its error frame, for clients that read such frames without
    /// fail.
    ///
    /// Without this the body fails after the frame with a [`BrokenStream`](super::BrokenStream), so
    /// that the connection ends unclean: some clients skip the frame and take a clean end for that
    /// of a whole answer. Over HTTP/2 a body that fails resets its stream, and a reset may overtake
    /// the frame.
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
        RescueService::new(inner, self.cutoff.clone(), self.options)
    }
}
