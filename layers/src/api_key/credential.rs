//! Where a key stands in a request.

use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::error::AmbiguousCredential;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A key, where it stood.
pub(super) enum ShownKey {
    In(HeaderValue, Range<usize>),
    Decoded(String),
}

impl ShownKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::In(value, range) => &value.as_bytes()[range.clone()],
            Self::Decoded(key) => key.as_bytes(),
        }
    }
}

/// Takes the credential out of the headers and returns the key in it.
///
/// # Errors
/// There are two that differ: whoever acts on one may not be the one who was meant.
pub(super) fn take(headers: &mut HeaderMap) -> Result<Option<ShownKey>, AmbiguousCredential> {
    // Most show none where none is asked for, and a look at a few names is less than a look-up.
    if !headers.keys().any(is_credential) {
        return Ok(None);
    }
    let authorization = take_header(headers, AUTHORIZATION);
    let x_api_key = take_header(headers, X_API_KEY);
    let bearer = authorization?.and_then(from_authorization);
    match (bearer, x_api_key?.and_then(plain)) {
        (Some(one), Some(other)) if one.as_bytes() != other.as_bytes() => Err(AmbiguousCredential),
        (one, other) => Ok(one.or(other)),
    }
}

fn is_credential(name: &HeaderName) -> bool {
    *name == AUTHORIZATION || name.as_str() == X_API_KEY.as_str()
}

fn take_header(
    headers: &mut HeaderMap,
    name: HeaderName,
) -> Result<Option<HeaderValue>, AmbiguousCredential> {
    let is_one = headers.get_all(&name).iter().nth(1).is_none();
    let value = headers.remove(name);
    is_one.then_some(value).ok_or(AmbiguousCredential)
}

fn plain(value: HeaderValue) -> Option<ShownKey> {
    let key = value.to_str().ok()?.trim();
    let range = range_of(key, &value)?;
    Some(ShownKey::In(value, range))
}

/// `Bearer` (RFC 6750) and `Basic` (RFC 7617): there the password is the key, or the user name
/// where no password is given.
fn from_authorization(value: HeaderValue) -> Option<ShownKey> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        let range = range_of(rest, &value)?;
        return Some(ShownKey::In(value, range));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
    let key = if password.is_empty() { user } else { password };
    (!key.is_empty()).then(|| ShownKey::Decoded(key.to_owned()))
}

/// Where `key`, which is a part of `value`, stands in it; `None` if it is empty.
fn range_of(key: &str, value: &HeaderValue) -> Option<Range<usize>> {
    let start = key.as_ptr().addr() - value.as_bytes().as_ptr().addr();
    (!key.is_empty()).then(|| start..start + key.len())
}
