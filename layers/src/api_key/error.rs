//! Why a request is not let in.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{Fail, Side};

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// A key is needed and none was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingKey;

/// The key that was shown is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKey;

/// Two different credentials were shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmbiguousCredential;

/// Only administrators may do this, and the gateway may have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagementRefused {
    pub(super) hint: Arc<str>,
}

impl fmt::Display for MissingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key is needed: send it as a bearer token or as x-api-key")
    }
}

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key is not known here")
    }
}

impl fmt::Display for AmbiguousCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two different keys were sent: send one")
    }
}

impl fmt::Display for ManagementRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "managing models needs an administrator's key; {}",
            self.hint
        )
    }
}

impl Error for MissingKey {}
impl Error for WrongKey {}
impl Error for AmbiguousCredential {}
impl Error for ManagementRefused {}

impl Fail for MissingKey {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::UNAUTHORIZED
    }
    fn kind(&self) -> &'static str {
        "missing_key"
    }
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(WWW_AUTHENTICATE, CHALLENGE);
    }
}

impl Fail for WrongKey {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::UNAUTHORIZED
    }
    fn kind(&self) -> &'static str {
        "wrong_key"
    }
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(WWW_AUTHENTICATE, CHALLENGE);
    }
}

impl Fail for AmbiguousCredential {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "ambiguous_credential"
    }
}

impl Fail for ManagementRefused {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::FORBIDDEN
    }
    fn kind(&self) -> &'static str {
        "management_refused"
    }
}
