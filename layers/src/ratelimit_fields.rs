//! The `RateLimit` headers of draft-ietf-httpapi-ratelimit-headers-10.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds, rounded up, so that a client which waits this long has waited long enough.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_nanos().div_ceil(1_000_000_000) as u64
}

/// `"key";q=60;w=60`; `w` is the length of the window in seconds, if the window has a fixed length.
pub(crate) fn policy(name: &str, quota: u64, window: Option<u64>) -> Option<HeaderValue> {
    let (mut q, mut w) = (itoa::Buffer::new(), itoa::Buffer::new());
    let q = q.format(quota);
    match window {
        Some(window) => value(["\"", name, "\";q=", q, ";w=", w.format(window)]),
        None => value(["\"", name, "\";q=", q, "", ""]),
    }
}

/// Builds a header value without `format!`, because this runs for each request: the text is built
/// in a stack buffer and copied once. The buffer holds a short name and two numbers of up to twenty
/// digits.
fn value(parts: [&str; 6]) -> Option<HeaderValue> {
    let mut text = [0; 80];
    let mut len = 0;
    for part in parts {
        let place = text.get_mut(len..len + part.len())?;
        place.copy_from_slice(part.as_bytes());
        len += part.len();
    }
    HeaderValue::from_bytes(&text[..len]).ok()
}

/// Appends the policy and `"key";r=12;t=5`: 12 are left for the next 5 s.
///
/// Both headers are lists (RFC 9651) and may have several lines, so each layer appends its own.
pub(crate) fn append(
    headers: &mut HeaderMap,
    policy: Option<HeaderValue>,
    name: &str,
    remaining: u64,
    reset: Duration,
) {
    let (mut r, mut t) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (r, t) = (r.format(remaining), t.format(whole_seconds(reset)));
    let value = value(["\"", name, "\";r=", r, ";t=", t]);
    if let (Some(policy), Some(value)) = (policy, value) {
        headers.append(RATELIMIT_POLICY, policy);
        headers.append(RATELIMIT, value);
    }
}
