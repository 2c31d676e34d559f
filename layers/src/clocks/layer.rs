//! The layer.

use std::time::Duration;

use tower_layer::Layer;

use super::StreamClocks;

/// Makes [`StreamClocks`] services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamClocksLayer {
    pub(super) first_byte: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) total: Option<Duration>,
}

impl Default for StreamClocksLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamClocksLayer {
    /// Fifteen minutes to the first byte, since Ollama sends nothing while it loads a model, one
    /// minute between bytes, no total.
    pub fn new() -> Self {
        Self {
            first_byte: Some(Duration::from_secs(900)),
            idle: Some(Duration::from_secs(60)),
            total: None,
        }
    }

    /// How long is waited for the head of the answer after the request was sent; `None` for
    /// ever.
    pub fn with_first_byte(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.first_byte = limit.into();
        self
    }

    /// How long is waited for each frame of the answer; `None` for ever.
    pub fn with_idle(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle = limit.into();
        self
    }

    /// How long all may take; `None` for ever.
    pub fn with_total(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.total = limit.into();
        self
    }
}

impl<S> Layer<S> for StreamClocksLayer {
    type Service = StreamClocks<S>;

    fn layer(&self, inner: S) -> StreamClocks<S> {
        StreamClocks {
            inner,
            clocks: *self,
        }
    }
}
