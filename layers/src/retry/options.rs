//! Options of one request.

use std::num::NonZeroU32;

use http::Extensions;

/// Retry options of one request, in its extensions. They take precedence over those of the
/// [`RetryLayer`](super::RetryLayer).
///
/// ```
/// use http::Request;
/// use llamatower_layers::retry::RetryOptions;
///
/// let once = RetryOptions::new().without_retries();
/// let request = Request::post("/api/chat").extension(once).body(());
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOptions {
    pub(super) attempts: Option<NonZeroU32>,
    pub(super) is_replayable: Option<bool>,
}

impl RetryOptions {
    /// Without a change.
    pub const fn new() -> Self {
        Self {
            attempts: None,
            is_replayable: None,
        }
    }

    /// The number of attempts, including the first.
    pub const fn with_attempts(mut self, attempts: NonZeroU32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// A single attempt.
    pub const fn without_retries(self) -> Self {
        self.with_attempts(NonZeroU32::MIN)
    }

    /// Whether this request may safely be sent twice.
    pub const fn with_replayable(mut self, is_replayable: bool) -> Self {
        self.is_replayable = Some(is_replayable);
        self
    }

    /// The options in these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }
}
