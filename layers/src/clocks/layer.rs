//! The layer.

use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::StreamClocks;

/// Makes [`StreamClocks`] services.
#[derive(Clone, Copy, Debug)]
pub struct StreamClocksLayer {
    pub(super) limits: Limits,
    quiet: Option<(IsQuiet, Option<Duration>)>,
}

type IsQuiet = fn(&Parts) -> bool;

/// How long is waited; `None` is for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
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
    /// Fifteen minutes to the first byte, since Ollama sends nothing while it loads a model; as
    /// long between bytes, since it sends nothing while it collects the arguments of a tool call; no
    /// total.
    pub fn new() -> Self {
        Self {
            limits: Limits {
                first_byte: Some(Duration::from_secs(900)),
                idle: Some(Duration::from_secs(900)),
                total: None,
            },
            quiet: None,
        }
    }

    /// How long is waited for the head of the answer after the request was sent; `None` for
    /// ever.
    pub fn with_first_byte(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.first_byte = limit.into();
        self
    }

    /// How long is waited for each frame of the answer; `None` for ever.
    pub fn with_idle(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.idle = limit.into();
        self
    }

    /// How long all may take; `None` for ever.
    pub fn with_total(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.total = limit.into();
        self
    }

    /// `limit` stands in the place of the first-byte limit and of the idle limit for the requests
    /// that `is_quiet` picks: those whose work is silent, like the download of a model.
    pub fn with_quiet(
        mut self,
        is_quiet: fn(&Parts) -> bool,
        limit: impl Into<Option<Duration>>,
    ) -> Self {
        self.quiet = Some((is_quiet, limit.into()));
        self
    }

    /// The limits of a request with this head.
    pub(super) fn limits_of(&self, head: &Parts) -> Limits {
        match self.quiet {
            Some((is_quiet, limit)) if is_quiet(head) => Limits {
                first_byte: limit,
                idle: limit,
                ..self.limits
            },
            _ => self.limits,
        }
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
