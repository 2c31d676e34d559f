//! The `RateLimit` headers of draft-ietf-httpapi-ratelimit-headers-10.

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
    if let (Some(policy), Some(value)) = (policy, standing(scope, remaining, reset)) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, value);
    }
}

/// The header is written for each request, so without `format!`: it is put together where that
/// costs nothing, and copied once.
fn standing(scope: Scope, remaining: u32, reset: Duration) -> Option<HeaderValue> {
    let (mut r, mut t) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (r, t) = (r.format(remaining), t.format(seconds(reset)));
    let mut text = [0; 64];
    let mut len = 0;
    for part in ["\"", scope.name(), "\";r=", r, ";t=", t] {
        let place = text.get_mut(len..len + part.len())?;
        place.copy_from_slice(part.as_bytes());
        len += part.len();
    }
    HeaderValue::from_bytes(&text[..len]).ok()
}
