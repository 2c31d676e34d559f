//! The errors of this layer.

use http::StatusCode;

use crate::{Fail, Side};

/// The address of a server has no scheme or no host, or it has a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server's address is http://HOST or https://HOST, with a port or a path if needed")]
pub struct InvalidServerAddress;

/// The request cannot be sent on as the layers outside have seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForwarded {
    /// The path has a segment `.` or `..`, also encoded, or a backslash. Clients and servers resolve
    /// such paths, so the server would see another path than the layers.
    #[error("the path of the request is ambiguous: send it without `.`, `..` and `\\`")]
    AmbiguousPath,
    /// `CONNECT` asks for a tunnel.
    #[error("this server does not open tunnels (CONNECT)")]
    Tunnel,
}

impl Fail for NotForwarded {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        match self {
            Self::AmbiguousPath => StatusCode::BAD_REQUEST,
            Self::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
    fn kind(&self) -> &'static str {
        match self {
            Self::AmbiguousPath => "ambiguous_path",
            Self::Tunnel => "tunnel_refused",
        }
    }
}

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
