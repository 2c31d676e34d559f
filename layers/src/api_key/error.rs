//! Why a request is not let in.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Identity;
use crate::{Fail, Side};

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// A key is needed and none was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is needed: send it as a bearer token or as x-api-key")]
pub struct MissingKey;

/// The key that was shown is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key is not known here")]
pub struct WrongKey;

/// Two known keys that differ were shown, or more credentials than a client has a reason to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("several different keys were sent: send one")]
pub struct AmbiguousCredential;

/// Only administrators may do this, and the gateway may have none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("managing models needs an administrator's key; {hint}")]
pub struct ManagementRefused {
    pub(super) hint: Arc<str>,
    /// Whether only management is refused to this client.
    pub(super) may_run_models: bool,
    pub(super) identity: Option<Identity>,
}

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
