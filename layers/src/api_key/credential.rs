//! Where a key stands in a request.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::error::AmbiguousCredential;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Takes the credential out of the headers and returns the key in it.
///
/// # Errors
/// There are two that differ: whoever acts on one may not be the one who was meant.
pub(super) fn take(headers: &mut HeaderMap) -> Result<Option<String>, AmbiguousCredential> {
    let mut keys = Vec::new();
    for name in [AUTHORIZATION, X_API_KEY] {
        let values = headers.get_all(&name);
        let read = if name == AUTHORIZATION {
            from_authorization
        } else {
            plain
        };
        if values.iter().count() > 1 {
            headers.remove(name);
            return Err(AmbiguousCredential);
        }
        keys.extend(values.iter().filter_map(read));
        headers.remove(name);
    }
    keys.dedup();
    match keys.len() {
        0 | 1 => Ok(keys.pop()),
        _ => Err(AmbiguousCredential),
    }
}

fn plain(value: &HeaderValue) -> Option<String> {
    let key = value.to_str().ok()?.trim();
    (!key.is_empty()).then(|| key.to_owned())
}

/// `Bearer` (RFC 6750) and `Basic` (RFC 7617): there the password is the key, or the user name
/// where no password is given.
fn from_authorization(value: &HeaderValue) -> Option<String> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return (!rest.is_empty()).then(|| rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
    let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
    let key = if password.is_empty() { user } else { password };
    (!key.is_empty()).then(|| key.to_owned())
}
