//! The `RateLimit` headers of draft-ietf-httpapi-ratelimit-headers-10.

use std::io::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Quota, Scope};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds, rounded up: who waits for them has waited long enough.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_nanos().div_ceil(1_000_000_000) as u64
}

/// `"key";q=60;w=60`. The window `w` is in whole seconds, so a period that is not has none.
pub(super) fn policy(scope: Scope, quota: &Quota) -> Option<HeaderValue> {
    let (name, requests, per) = (scope.name(), quota.requests(), quota.per());
    let value = match per.subsec_nanos() {
        0 => format!("\"{name}\";q={requests};w={}", per.as_secs()),
        _ => format!("\"{name}\";q={requests}"),
    };
    HeaderValue::try_from(value).ok()
}

/// Adds the policy and `"key";r=12;t=5`: 12 requests are left for the next 5 s.
///
/// Both headers are lists (RFC 9651), which may be written as several lines, so layers with
/// other quotas add theirs beside.
pub(super) fn write(
    headers: &mut HeaderMap,
    policy: Option<HeaderValue>,
    scope: Scope,
    remaining: u32,
    reset: Duration,
) {
    // Written where it costs nothing, then copied once into what the header keeps: two numbers of
    // at most ten digits, and at most nineteen of the text.
    let mut text = [0; 64];
    let mut rest = &mut text[..];
    let written = write!(
        rest,
        "\"{}\";r={remaining};t={}",
        scope.name(),
        seconds(reset)
    );
    let unused = rest.len();
    let value = HeaderValue::from_bytes(&text[..text.len() - unused]);
    if let (Some(policy), Ok(value), Ok(())) = (policy, value, written) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, value);
    }
}
