//! The meaning of a failure: which side caused it, whether a retry is allowed, what the client
//! sees.
//!
//! Each layer has its own small public error type and implements [`Fail`] for it. Layers return the
//! error as the source of a [`Failure`]. The retry and rescue layers find the failure by walking
//! [`Error::source`].
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
//! let failure = Failure::find(&*error).expect("it is a Failure");
//! assert_eq!(failure.retryable(), Retryable::Yes);
//! assert!(failure.caused_by::<OutOfPaper>().is_some());
//! ```

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};

/// The error type of all layers.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The side that caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request was at fault, or the client disconnected.
    Client,
    /// The gateway refused the request, or failed itself.
    Gateway,
    /// The backend failed, or could not be reached.
    Upstream,
}

/// Whether a failed request may be sent again, to another backend or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retryable {
    /// No: it would fail again, or have its effect twice.
    No,
    /// Once for each request: a second failure of this kind would take as long as the first.
    Once,
    /// Only if another backend can be tried: this one will fail again for some time. The client
    /// should wait, not the request with all that it holds.
    Elsewhere,
    /// Yes.
    Yes,
}

/// An error with a status, a side and a retry rule. Its `Display` is the text that the client sees.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell its status and whose fault it is: it does not implement `Fail`",
    note = "implement `Fail` for an error type of your own",
    note = "for an error of another crate, put `classify::ClassifyLayer` around the service that fails with it"
)]
pub trait Fail: Error + Send + Sync + 'static {
    /// The side that caused the failure.
    fn side(&self) -> Side;
    /// The status of the response, if the response has not started.
    fn status(&self) -> StatusCode;
    /// A short, fixed name for logs and metrics (`error.type`).
    fn kind(&self) -> &'static str;
    /// Whether the same request may be sent again, to another backend or later.
    fn retryable(&self) -> Retryable {
        Retryable::No
    }
    /// Whether the request must end with this failure: no other model or service is asked instead.
    fn is_final(&self) -> bool {
        false
    }
    /// How long the client should wait before it retries (`Retry-After`, RFC 9110 10.2.3).
    fn retry_after(&self) -> Option<Duration> {
        None
    }
    /// Writes the headers that the response needs besides its status, such as `WWW-Authenticate` on a
    /// 401 (RFC 9110 11.6.1). It does not write `Retry-After`, which comes from
    /// [`retry_after`](Self::retry_after).
    fn write_headers(&self, _headers: &mut HeaderMap) {}
}

/// An error and its sources, outermost first. An `io::Error` around another error hides it: its
/// `source()` is the source of the error inside.
pub(crate) fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inside = error.downcast_ref().and_then(io::Error::get_ref);
        inside.map_or_else(|| error.source(), |inside| Some(inside))
    })
}

/// An error that carries its meaning; the cause is the error that a layer returned.
pub struct Failure {
    cause: Box<dyn Fail>,
}

impl Failure {
    /// The first failure in the chain of an error's sources, if there is one.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        sources(error).find_map(|error| error.downcast_ref())
    }

    /// The side that caused the failure.
    pub fn side(&self) -> Side {
        self.cause.side()
    }

    /// The status of the response, if the response has not started.
    pub fn status(&self) -> StatusCode {
        self.cause.status()
    }

    /// The status code of gRPC that stands for [`status`](Self::status), by the HTTP mapping that
    /// `google/rpc/code.proto` gives each code. That list has no 502: it is `UNAVAILABLE` (14), as in gRPC's
    /// `http-grpc-status-mapping.md`. Other 4xx are `INVALID_ARGUMENT` (3), all that remain `INTERNAL` (13).
    /// `tonic::Code` is made from this number by its `From<i32>`.
    pub fn grpc_code(&self) -> i32 {
        match self.status().as_u16() {
            401 => 16,
            403 => 7,
            404 => 5,
            408 | 504 => 4,
            429 => 8,
            400..=499 => 3,
            501 => 12,
            502 | 503 => 14,
            _ => 13,
        }
    }

    /// A short, fixed name for logs and metrics.
    pub fn kind(&self) -> &'static str {
        self.cause.kind()
    }

    /// Whether the same request may be sent again.
    pub fn retryable(&self) -> Retryable {
        self.cause.retryable()
    }

    /// Whether the request must end with this failure.
    pub fn is_final(&self) -> bool {
        self.cause.is_final()
    }

    /// How long the client should wait before it retries.
    pub fn retry_after(&self) -> Option<Duration> {
        self.cause.retry_after()
    }

    /// The value of `Retry-After`: whole seconds (RFC 9110 10.2.3), at least 1; rounding down would be too
    /// early.
    pub fn retry_after_field(&self) -> Option<HeaderValue> {
        let wait = self.retry_after()?;
        let more = u64::from(wait.subsec_nanos() > 0);
        let seconds = wait.as_secs().saturating_add(more).max(1);
        Some(HeaderValue::from(seconds))
    }

    /// Writes the headers that the response needs besides its status.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        self.cause.write_headers(headers);
    }

    /// The cause, if its type is `E`.
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

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[derive(Debug)]
    struct Status(StatusCode);

    impl fmt::Display for Status {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl Error for Status {}

    impl Fail for Status {
        fn side(&self) -> Side {
            Side::Gateway
        }
        fn status(&self) -> StatusCode {
            self.0
        }
        fn kind(&self) -> &'static str {
            "invalid_request"
        }
    }

    #[test]
    fn each_status_has_the_grpc_code_that_googles_list_gives_it() {
        for (status, code) in [
            (400, Code::InvalidArgument),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::NotFound),
            (408, Code::DeadlineExceeded),
            (413, Code::InvalidArgument),
            (429, Code::ResourceExhausted),
            (500, Code::Internal),
            (501, Code::Unimplemented),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::DeadlineExceeded),
        ] {
            let failure = StatusCode::from_u16(status).map(|status| Failure::from(Status(status)));
            let written = failure.map(|failure| failure.grpc_code().into());
            assert_eq!(written.ok(), Some(code), "{status}");
        }
    }
}
