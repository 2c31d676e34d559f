//! What a failure means: whose side it is on, whether it may be retried, what the client sees.
//!
//! Each layer has a small public error type of its own and implements [`Fail`] for it. On its
//! way out the error is the source of a [`Failure`], which the retry and rescue layers find by
//! walking [`Error::source`].
//!
//! ```
//! use http::StatusCode;
//! use llamatower_layers::{BoxError, Fail, Failure, Retryable, Side};
//!
//! #[derive(Debug)]
//! struct OutOfPaper;
//! impl std::fmt::Display for OutOfPaper {
//!     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
//!         f.write_str("the printer is out of paper")
//!     }
//! }
//! impl std::error::Error for OutOfPaper {}
//! impl Fail for OutOfPaper {
//!     fn side(&self) -> Side { Side::Upstream }
//!     fn status(&self) -> StatusCode { StatusCode::SERVICE_UNAVAILABLE }
//!     fn kind(&self) -> &'static str { "out_of_paper" }
//!     fn retryable(&self) -> Retryable { Retryable::Yes }
//! }
//!
//! let error: BoxError = Failure::from(OutOfPaper).into();
//! let failure = Failure::find(&*error).expect("it was raised as one");
//! assert_eq!(failure.retryable(), Retryable::Yes);
//! assert!(failure.caused_by::<OutOfPaper>().is_some());
//! ```

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// The error type in which layers pass failures outwards.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Whose side a failure is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request was at fault, or its sender went away.
    Client,
    /// The gateway refused, or failed by itself.
    Gateway,
    /// The backend failed, or could not be reached.
    Upstream,
}

/// Whether a request that failed may be sent again, to another backend or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retryable {
    /// It may not: it would fail again, or do something twice.
    No,
    /// It may, once for each request: another failure of this sort would cost its whole time
    /// again.
    Once,
    /// It may.
    Yes,
}

/// An error that knows what it means. Its `Display` is the text that the client sees.
pub trait Fail: Error + Send + Sync + 'static {
    /// Whose side the failure is on.
    fn side(&self) -> Side;
    /// The status of the answer, when an answer can still be given.
    fn status(&self) -> StatusCode;
    /// A short name of fixed spelling for logs and metrics (`error.type`).
    fn kind(&self) -> &'static str;
    /// Whether the same request may be sent again, to another backend or later.
    fn retryable(&self) -> Retryable {
        Retryable::No
    }
    /// How long the client should wait before it asks again (`Retry-After`, RFC 9110 10.2.3).
    fn retry_after(&self) -> Option<Duration> {
        None
    }
    /// Writes the headers that the answer carries beside its status, such as
    /// `WWW-Authenticate` on a 401 (RFC 9110 11.6.1). `Retry-After` is not among them: it is
    /// written from [`retry_after`](Self::retry_after).
    fn write_headers(&self, _headers: &mut HeaderMap) {}
}

/// A failure on its way out: what it means, and the error that caused it.
pub struct Failure {
    cause: Box<dyn Fail>,
}

impl Failure {
    /// The failure in an error's chain of sources, if there is one.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref() {
                return Some(failure);
            }
            next = error.source();
        }
        None
    }

    /// Whose side the failure is on.
    pub fn side(&self) -> Side {
        self.cause.side()
    }

    /// The status of the answer, when an answer can still be given.
    pub fn status(&self) -> StatusCode {
        self.cause.status()
    }

    /// A short name of fixed spelling for logs and metrics.
    pub fn kind(&self) -> &'static str {
        self.cause.kind()
    }

    /// Whether the same request may be sent again.
    pub fn retryable(&self) -> Retryable {
        self.cause.retryable()
    }

    /// How long the client should wait before it asks again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.cause.retry_after()
    }

    /// Writes the headers that the answer carries beside its status.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        self.cause.write_headers(headers);
    }

    /// The cause, if it is an `E`.
    pub fn caused_by<E: Fail>(&self) -> Option<&E> {
        let cause: &(dyn Error + 'static) = &*self.cause;
        cause.downcast_ref()
    }
}

impl<E: Fail> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self {
            cause: Box::new(cause),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.cause, f)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}
