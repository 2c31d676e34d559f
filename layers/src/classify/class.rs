//! The meaning of an error, and the error that carries it.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::failure::sources;
use crate::{BoxError, Fail, Failure, Retryable, Side};

/// The meaning of an error that is no [`Failure`] itself.
///
/// The constants are the meanings that the crate gives to errors it knows; [`Class::new`] makes
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    side: Side,
    status: StatusCode,
    kind: &'static str,
    text: &'static str,
    retryable: Retryable,
    retry_after: Option<Duration>,
    shows_cause: bool,
}

impl Class {
    /// No connection could be made: nothing was sent. 502, retryable.
    pub const CONNECT_FAILED: Self = Self::upstream(
        StatusCode::BAD_GATEWAY,
        "connect_failed",
        "cannot connect to the backend",
        Retryable::Yes,
    );
    /// No connection could be made in time: nothing was sent. 504, retryable.
    pub const CONNECT_TIMEOUT: Self = Self::upstream(
        StatusCode::GATEWAY_TIMEOUT,
        "connect_timeout",
        "the backend did not accept a connection in time",
        Retryable::Yes,
    );
    /// The backend did not respond in time. 504, retryable once.
    pub const TIMEOUT: Self = Self::upstream(
        StatusCode::GATEWAY_TIMEOUT,
        "upstream_timeout",
        "the backend did not respond in time",
        Retryable::Once,
    );
    /// The connection ended before the response was complete. 502, retryable before the response's
    /// head if the request may be sent twice.
    pub const CONNECTION_LOST: Self = Self::upstream(
        StatusCode::BAD_GATEWAY,
        "connection_lost",
        "the connection to the backend was lost",
        Retryable::Yes,
    );
    /// The backend's response cannot be read. 502, not retryable: it would send the same again.
    pub const INVALID_ANSWER: Self = Self::upstream(
        StatusCode::BAD_GATEWAY,
        "invalid_answer",
        "the response of the backend cannot be read",
        Retryable::No,
    );
    /// The request cannot be sent in this form, for example because its URI has no host: a fault of
    /// this program. 500, not retryable.
    pub const INVALID_REQUEST: Self = Self::new(
        Side::Gateway,
        StatusCode::INTERNAL_SERVER_ERROR,
        "invalid_request",
        "the request cannot be sent to the backend",
    )
    .with_cause(true);
    /// The body of the request failed while it was sent: usually its client disconnected. 400, not
    /// retryable.
    pub const CLIENT_BODY_FAILED: Self = Self::new(
        Side::Client,
        StatusCode::BAD_REQUEST,
        "client_body_failed",
        "the request body could not be read to its end",
    );

    /// A class with this [`Fail::side`], [`Fail::status`] and [`Fail::kind`], which is not
    /// retryable. The client sees `text`.
    pub const fn new(
        side: Side,
        status: StatusCode,
        kind: &'static str,
        text: &'static str,
    ) -> Self {
        Self {
            side,
            status,
            kind,
            text,
            retryable: Retryable::No,
            retry_after: None,
            shows_cause: false,
        }
    }

    const fn upstream(
        status: StatusCode,
        kind: &'static str,
        text: &'static str,
        retryable: Retryable,
    ) -> Self {
        Self::new(Side::Upstream, status, kind, text)
            .with_retryable(retryable)
            .with_cause(true)
    }

    /// Whether the request may be sent again.
    pub const fn with_retryable(mut self, retryable: Retryable) -> Self {
        self.retryable = retryable;
        self
    }

    /// How long the client should wait before it retries (`Retry-After`).
    pub const fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Whether the client also sees the text of the deepest cause. By default it does not, because
    /// such a text may hold secrets; the constants for errors of the backend's side show it, for
    /// example `Connection refused`.
    pub const fn with_cause(mut self, shown: bool) -> Self {
        self.shows_cause = shown;
        self
    }

    /// The side that caused the failure.
    pub const fn side(&self) -> Side {
        self.side
    }

    /// The status of the response, if it has not started.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The name for logs and metrics.
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// The failure with this meaning and this cause.
    pub fn failure(self, cause: impl Into<BoxError>) -> Failure {
        Failure::from(ClassifiedError {
            class: self,
            source: cause.into(),
        })
    }
}

/// An error with a [`Class`]. Its source is the original error.
#[derive(Debug)]
pub struct ClassifiedError {
    class: Class,
    source: BoxError,
}

impl ClassifiedError {
    /// The error's class.
    pub fn class(&self) -> Class {
        self.class
    }
}

impl fmt::Display for ClassifiedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.text)?;
        let cause = sources(&*self.source).last();
        match cause.filter(|cause| self.class.shows_cause && !may_show_url(*cause)) {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl Error for ClassifiedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl Fail for ClassifiedError {
    fn side(&self) -> Side {
        self.class.side
    }
    fn status(&self) -> StatusCode {
        self.class.status
    }
    fn kind(&self) -> &'static str {
        self.class.kind
    }
    fn retryable(&self) -> Retryable {
        self.class.retryable
    }
    fn retry_after(&self) -> Option<Duration> {
        self.class.retry_after
    }
}

/// Whether the text of an error names the request's URL, which may hold a key.
fn may_show_url(error: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "reqwest")]
    if error.is::<reqwest::Error>() {
        return true;
    }
    let _ = error;
    false
}
