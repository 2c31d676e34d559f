//! What the client of a panicked request is told.

use http::StatusCode;

use crate::{Fail, Side};

/// The code that was to answer the request panicked. The text of the panic goes to the hook
/// and not in here, because the client sees this error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request failed by a fault of the service itself; its log has the details")]
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
