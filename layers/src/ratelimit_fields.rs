//! The `RateLimit` headers of draft-ietf-httpapi-ratelimit-headers-10.

use std::io::Write;
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
    value(|text| match window {
        Some(window) => write!(text, "\"{name}\";q={quota};w={window}"),
        None => write!(text, "\"{name}\";q={quota}"),
    })
}

/// Written where it costs nothing, then copied once into what the header keeps: a short name and two
/// numbers of at most twenty digits.
fn value(write: impl FnOnce(&mut &mut [u8]) -> std::io::Result<()>) -> Option<HeaderValue> {
    let mut text = [0; 80];
    let mut rest = &mut text[..];
    write(&mut rest).ok()?;
    let unused = rest.len();
    HeaderValue::from_bytes(&text[..text.len() - unused]).ok()
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
    let seconds = whole_seconds(reset);
    let value = value(|text| write!(text, "\"{name}\";r={remaining};t={seconds}"));
    if let (Some(policy), Some(value)) = (policy, value) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, value);
    }
}
