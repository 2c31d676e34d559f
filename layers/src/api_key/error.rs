//! Errors of refused requests.

use std::sync::Arc;
use std::time::Duration;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Identity;
use crate::{Fail, Side};

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// A key is required, and the request has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an API key is required: send it as a bearer token, as the password of Basic, or in the header x-api-key"
)]
pub struct MissingKey;

/// The request's key is not a known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API key is not valid")]
pub struct WrongKey;

/// The request's key has expired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API key has expired; ask the operator of this gateway for a new one")]
pub struct ExpiredKey {
    /// The owner of the key; the client is not told.
    pub(super) owner: Arc<str>,
}

/// Too many requests with wrong keys came from the client's address. Requests with a valid key are
/// not affected, so it tells the client to correct its key.
///
/// The response is a 429 (RFC 6585 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many requests with a wrong API key came from this address; a valid key is accepted at any \
     time, another attempt in {} s",
    .retry_after.as_secs() + 1
)]
#[non_exhaustive]
pub struct TooManyFailedKeys {
    /// Time until a request with a wrong key gets its own error again.
    pub retry_after: Duration,
}

/// The request has two different known keys, or more credentials than a client has a reason to
/// send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request has several different API keys: send one")]
pub struct AmbiguousCredential;

/// The request needs an administrator's key. There may be none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("managing models, or the account of a server, needs an administrator's key; {hint}")]
pub struct ManagementRefused {
    pub(super) hint: Arc<str>,
    /// Whether the client may run models, so that only management is refused.
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

impl Fail for ExpiredKey {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::UNAUTHORIZED
    }
    fn kind(&self) -> &'static str {
        "expired_key"
    }
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(WWW_AUTHENTICATE, CHALLENGE);
    }
}

impl Fail for TooManyFailedKeys {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }
    fn kind(&self) -> &'static str {
        "too_many_failed_keys"
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
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
