//! The errors of this layer.

use http::StatusCode;

use crate::{Fail, Side};

/// The address of a server has no scheme or no host, or it has a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server's address is http://HOST or https://HOST, with a port or a path if needed")]
pub struct InvalidServerAddress;

/// The path of the server's address and that of the request are too long together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path of the request is too long to be sent on")]
pub struct UriTooLong;

impl Fail for UriTooLong {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::URI_TOO_LONG
    }
    fn kind(&self) -> &'static str {
        "uri_too_long"
    }
}
