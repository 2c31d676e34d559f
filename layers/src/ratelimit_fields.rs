//! The `RateLimit` headers of draft-ietf-httpapi-ratelimit-headers-10.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds, rounded up: who waits for them has waited long enough.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_nanos().div_ceil(1_000_000_000) as u64
}

/// `"key";q=60;w=60`; `w` is the length of the window in seconds, where it has a fixed one.
pub(crate) fn policy(name: &str, quota: u64, window: Option<u64>) -> Option<HeaderValue> {
    let value = match window {
        Some(window) => format!("\"{name}\";q={quota};w={window}"),
        None => format!("\"{name}\";q={quota}"),
    };
    HeaderValue::try_from(value).ok()
}

/// Adds the policy and `"key";r=12;t=5`: 12 are left for the next 5 s.
///
/// Both headers are lists (RFC 9651), which may be written as several lines, so layers with
/// other quotas add theirs beside.
pub(crate) fn append(
    headers: &mut HeaderMap,
    policy: Option<HeaderValue>,
    name: &str,
    remaining: u64,
    reset: Duration,
) {
    let value = format!("\"{name}\";r={remaining};t={}", whole_seconds(reset));
    if let (Some(policy), Ok(value)) = (policy, HeaderValue::try_from(value)) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, value);
    }
}
