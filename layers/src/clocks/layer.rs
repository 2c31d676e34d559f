//! The layer.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::{StreamClocksService, StreamTimeouts};
use crate::order;
use crate::service::{Hook, Selector};

/// Makes [`StreamClocksService`] services.
#[derive(Clone, Debug)]
pub struct StreamClocksLayer {
    pub(super) limits: Limits,
    quiet: Option<(Selector, Option<Duration>)>,
    quiet_names: &'static LimitNames,
}

/// The names of the limits, for the texts of errors: for example, the settings of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitNames {
    /// The limit before the first byte.
    pub first_byte: &'static str,
    /// The limit between two bytes.
    pub idle: &'static str,
    /// The limit of the whole exchange.
    pub total: &'static str,
}

impl LimitNames {
    /// The names without [`StreamClocksLayer::with_limit_names`].
    pub const DEFAULT: Self = Self {
        first_byte: "the first-byte time-out",
        idle: "the idle time-out",
        total: "the total time-out",
    };
}

/// The limits; `None` means no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) first_byte: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) total: Option<Duration>,
    pub(super) names: LimitNames,
}

impl Default for StreamClocksLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamClocksLayer {
    /// 15 min to the first byte, because Ollama sends nothing while it loads a model; 15 min
    /// between bytes, because it sends nothing while it collects the arguments of a tool call; no
    /// total limit.
    pub fn new() -> Self {
        Self {
            limits: Limits {
                first_byte: Some(Duration::from_secs(900)),
                idle: Some(Duration::from_secs(900)),
                total: None,
                names: LimitNames::DEFAULT,
            },
            quiet: None,
            quiet_names: &LimitNames::DEFAULT,
        }
    }

    /// Time-out of the response's head, from when the request was sent; `None` means no limit.
    ///
    /// Inside of a `RetryLayer` the error is retried once, also at the same server: a client may wait
    /// twice as long.
    pub fn with_first_byte(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.first_byte = limit.into();
        self
    }

    /// Time-out of each frame of the response; `None` means no limit.
    pub fn with_idle(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.idle = limit.into();
        self
    }

    /// Time-out of the whole exchange; `None` means no limit.
    pub fn with_total(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.total = limit.into();
        self
    }

    /// Replaces the first-byte and the idle limit by `limit` for requests that `is_quiet` selects,
    /// whose work sends nothing for a long time, like the download of a model.
    pub fn with_quiet(
        mut self,
        is_quiet: impl Fn(&Parts) -> bool + Send + Sync + 'static,
        limit: impl Into<Option<Duration>>,
    ) -> Self {
        self.quiet = Some((Hook(Arc::new(is_quiet)), limit.into()));
        self
    }

    /// Sets the names of the limits in the texts of errors: the usual ones, and those of requests that
    /// [`with_quiet`](Self::with_quiet) selects.
    pub fn with_limit_names(
        mut self,
        usual: &'static LimitNames,
        quiet: &'static LimitNames,
    ) -> Self {
        self.limits.names = *usual;
        self.quiet_names = quiet;
        self
    }

    /// The limits of a request with this head.
    pub(super) fn limits_of(&self, head: &Parts) -> Limits {
        let mut limits = self.usual_limits_of(head);
        if let Some(timeouts) = head.extensions.get::<StreamTimeouts>() {
            timeouts.replace(&mut limits);
        }
        limits
    }

    fn usual_limits_of(&self, head: &Parts) -> Limits {
        match &self.quiet {
            Some((is_quiet, limit)) if is_quiet(head) => Limits {
                first_byte: *limit,
                idle: *limit,
                names: *self.quiet_names,
                ..self.limits
            },
            _ => self.limits,
        }
    }
}

impl<S> Layer<S> for StreamClocksLayer {
    type Service = StreamClocksService<S>;

    fn layer(&self, inner: S) -> StreamClocksService<S> {
        order::check::<S>("StreamClocks");
        StreamClocksService {
            inner,
            clocks: self.clone(),
        }
    }
}
