//! The error of a request that panicked.

use http::StatusCode;

use crate::{Fail, Side};

/// The code for this request panicked. The panic message goes to the hook and not into this error,
/// because the client sees this error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an internal error of the service; see its log for details")]
#[non_exhaustive]
pub struct Panicked;

impl Fail for Panicked {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }
    fn kind(&self) -> &'static str {
        "panic"
    }
}
