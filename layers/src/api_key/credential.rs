//! Finds the credentials in a request's headers.

use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use super::error::AmbiguousCredential;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A key in its header field.
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

/// The keys in one request, in the order `authorization`, `x-api-key`.
pub(super) type ShownKeys = SmallVec<[ShownKey; 2]>;

/// Limit of credential fields in one request, because each costs a digest.
const MOST_FIELDS: usize = 4;

/// The credentials of a request.
pub(super) struct Taken {
    /// The keys; an error if there are more credentials than any client has a reason to send.
    pub(super) shown: Result<ShownKeys, AmbiguousCredential>,
    /// Whether there was any credential, readable or not.
    pub(super) has_credential: bool,
}

/// Removes all credentials from the headers.
pub(super) fn take(headers: &mut HeaderMap) -> Taken {
    let mut shown = ShownKeys::new();
    let mut fields = 0;
    // Most requests have one of them or none, and comparing a few names is cheaper than a lookup.
    if headers.keys().any(|name| *name == AUTHORIZATION) {
        fields += take_from(headers, AUTHORIZATION, from_authorization, &mut shown);
    }
    if headers
        .keys()
        .any(|name| name.as_str() == X_API_KEY.as_str())
    {
        fields += take_from(headers, X_API_KEY, plain, &mut shown);
    }
    Taken {
        shown: match fields > MOST_FIELDS {
            true => Err(AmbiguousCredential),
            false => Ok(shown),
        },
        has_credential: fields > 0,
    }
}

/// Removes the fields of this name, adds their keys, and returns the number of fields.
fn take_from(
    headers: &mut HeaderMap,
    name: HeaderName,
    key_of: fn(HeaderValue) -> Option<ShownKey>,
    shown: &mut ShownKeys,
) -> usize {
    let given = headers.get_all(&name).iter();
    let given: SmallVec<[HeaderValue; 1]> = given.take(MOST_FIELDS + 1).cloned().collect();
    headers.remove(&name);
    let fields = given.len();
    shown.extend(given.into_iter().filter_map(key_of));
    fields
}

fn plain(value: HeaderValue) -> Option<ShownKey> {
    let key = value.to_str().ok()?.trim();
    let range = range_of(key, &value)?;
    Some(ShownKey::In(value, range))
}

/// `Bearer` (RFC 6750) and `Basic` (RFC 7617). For Basic the password is the key, or the user name
/// if there is no password.
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

/// The range of `key`, which is a part of `value`; `None` if it is empty.
fn range_of(key: &str, value: &HeaderValue) -> Option<Range<usize>> {
    let start = key.as_ptr().addr() - value.as_bytes().as_ptr().addr();
    (!key.is_empty()).then(|| start..start + key.len())
}
