//! Time-outs of single requests.

use std::time::Duration;

use super::LimitNames;
use super::layer::Limits;

/// The time-outs of one request, in place of those of [`StreamClocksLayer`](super::StreamClocksLayer):
/// a request extension, which an outer layer or a handler inserts.
///
/// A time-out that is not set here is the layer's.
///
/// ```
/// use std::time::Duration;
///
/// use http::Request;
/// use llamatower_layers::clocks::StreamTimeouts;
///
/// let mut request = Request::new(());
/// request.extensions_mut().insert(
///     StreamTimeouts::new()
///         .with_first_byte(Duration::from_secs(5))
///         .with_idle(None), // no limit
/// );
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it has an effect in the extensions of a request"]
pub struct StreamTimeouts {
    // The outer `None` is the layer's time-out, the inner one is no time-out.
    first_byte: Option<Option<Duration>>,
    first_byte_name: Option<&'static str>,
    idle: Option<Option<Duration>>,
    total: Option<Option<Duration>>,
}

impl StreamTimeouts {
    /// The time-outs of the layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Time-out of the response's head, from when the request was sent; `None` means no limit.
    pub fn with_first_byte(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.first_byte = Some(limit.into());
        self
    }

    /// The name of the first-byte time-out in the text of its error: for example, the setting that it
    /// comes from. By default a replaced time-out has the name in [`LimitNames::DEFAULT`].
    pub fn with_first_byte_name(mut self, name: &'static str) -> Self {
        self.first_byte_name = Some(name);
        self
    }

    /// Time-out of each frame of the response; `None` means no limit.
    pub fn with_idle(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle = Some(limit.into());
        self
    }

    /// Time-out of the whole exchange, from when it reaches the layer; `None` means no limit.
    pub fn with_total(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.total = Some(limit.into());
        self
    }

    /// Replaces the limits, and their names in the texts of errors: a replaced limit is not that of
    /// the layer's setting.
    // Not inlined, so that requests with the layer's time-outs do not pay for it.
    #[cold]
    pub(super) fn replace(&self, limits: &mut Limits) {
        let usual = &LimitNames::DEFAULT;
        if let Some(limit) = self.first_byte {
            (limits.first_byte, limits.names.first_byte) = (limit, usual.first_byte);
        }
        if let Some(name) = self.first_byte_name {
            limits.names.first_byte = name;
        }
        if let Some(limit) = self.idle {
            (limits.idle, limits.names.idle) = (limit, usual.idle);
        }
        if let Some(limit) = self.total {
            (limits.total, limits.names.total) = (limit, usual.total);
        }
    }
}
