//! The error of a refused request.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::Quota;
use crate::ratelimit_fields::{self, whole_seconds};
use crate::{Fail, Retryable, Side};

/// The scope of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// All requests together.
    Global,
    /// The requests of one key.
    Key,
    /// Some requests of one key, identified by the policy's name.
    Named(&'static str),
}

impl Scope {
    /// The policy's name in the `RateLimit` headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Key => "key",
            Self::Named(name) => name,
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Self::Global => "all clients together have",
            Self::Key | Self::Named(_) => "this client has",
        }
    }
}

/// The quota is used up. Nothing was sent to a backend, so the request may be sent again later.
///
/// The response is a 429 (RFC 6585 4) with the `RateLimit` headers of the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rate limit reached: {} used up {quota}; try again in {} s",
    .scope.subject(),
    whole_seconds(*.retry_after)
)]
#[non_exhaustive]
pub struct RateLimited {
    /// The scope of the quota.
    pub scope: Scope,
    /// The quota.
    pub quota: Quota,
    /// Time until the quota has room for one request.
    pub retry_after: Duration,
}

impl Fail for RateLimited {
    fn side(&self) -> Side {
        match self.scope {
            Scope::Global => Side::Gateway,
            Scope::Key | Scope::Named(_) => Side::Client,
        }
    }
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }
    fn kind(&self) -> &'static str {
        "rate_limited"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
    fn write_headers(&self, headers: &mut HeaderMap) {
        let policy = self.quota.policy(self.scope.name());
        ratelimit_fields::append(headers, policy, self.scope.name(), 0, self.retry_after);
    }
}
