//! Users of a shared key. A chat server has one key for all of its users, and names the user of each
//! request in a header. Only keys that may delegate are believed; for every other client the header is
//! removed without effect.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use llamatower_layers::api_key::Identity;
use llamatower_layers::live::Live;
use llamatower_layers::{Fail, Failure, Record, Side};
use percent_encoding::percent_decode_str;

use crate::clients::request_filter::RequestFilter;
use crate::settings::Settings;

/// Separates the name of a key from that of its user. It cannot be in the name of a key.
const SEPARATOR: char = '/';
/// The name of the users of a key beyond the number that is counted by name.
const OTHERS: &str = "(others)";
/// The longest name of a user, in bytes. An address of mail has at most 254 (RFC 5321).
const MAX_NAME: usize = 254;

/// The user that the key of a request has named; an extension of the request. The text has both names,
/// like `webui/ada@example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegatedUser(pub Arc<str>);

/// The name of the key in a name like `webui/ada@example.org`; `None` if it is not that of a user.
pub fn key_of_user(name: &str) -> Option<&str> {
    Some(name.split_once(SEPARATOR)?.0)
}

/// The common name of the users beyond the number that is counted by name, for the key of this user.
/// `None` if it is not the name of a user.
pub fn other_users(name: &str) -> Option<Arc<str>> {
    Some(format!("{}{SEPARATOR}{OTHERS}", key_of_user(name)?).into())
}

/// Reads the user of each request. Clones share the rules, and they can be changed while the gateway
/// serves.
#[derive(Clone, Debug, Default)]
pub struct Delegation(Live<Rules>);

#[derive(Debug, Default)]
struct Rules {
    keys: BTreeSet<Arc<str>>,
    headers: Box<[HeaderName]>,
}

/// The header that names the user has a value that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header {header} does not name a user: {reason}")]
pub struct InvalidUser {
    header: HeaderName,
    reason: &'static str,
}

impl Fail for InvalidUser {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "invalid_user"
    }
}

impl Delegation {
    /// The rules of these settings.
    pub fn new(settings: &Settings) -> Self {
        let delegation = Self::default();
        delegation.set(settings);
        delegation
    }

    /// Replaces the rules by those of other settings.
    pub fn set(&self, settings: &Settings) {
        self.0.set(Rules {
            keys: settings.keys.delegating.iter().cloned().collect(),
            headers: settings.keys.user_headers.as_slice().into(),
        });
    }
}

impl Rules {
    /// The key of a request, if it may name its users.
    fn key_of(&self, request: &Extensions) -> Option<Arc<str>> {
        if self.keys.is_empty() {
            return None;
        }
        let name = &request.get::<Identity>()?.name;
        self.keys.contains(name).then(|| name.clone())
    }

    /// Removes the headers, and returns the name in the first of them that has one.
    fn take_user(
        &self,
        headers: &mut HeaderMap,
        is_believed: bool,
    ) -> Result<Option<String>, InvalidUser> {
        let mut user = None;
        for header in &self.headers {
            // Few requests have it, and comparing a few names is cheaper than a lookup.
            if !headers.keys().any(|name| name == header) {
                continue;
            }
            let values: Vec<_> = headers.get_all(header).iter().cloned().collect();
            headers.remove(header);
            if is_believed && user.is_none() {
                let invalid = |reason| InvalidUser {
                    header: header.clone(),
                    reason,
                };
                user = name_in(&values).map_err(invalid)?;
            }
        }
        Ok(user)
    }
}

impl RequestFilter for Delegation {
    fn filter<B>(&self, request: &mut Request<B>) -> Result<(), Failure> {
        let rules = self.0.get();
        let key = rules.key_of(request.extensions());
        let user = rules.take_user(request.headers_mut(), key.is_some());
        if let (Some(key), Some(user)) = (key, user?) {
            let name: Arc<str> = format!("{key}{SEPARATOR}{user}").into();
            Record::update_in(request.extensions(), |outcome| {
                outcome.identity = Some(name.clone());
            });
            request.extensions_mut().insert(DelegatedUser(name));
        }
        Ok(())
    }
}

/// The name in the values of a header; `None` if they are empty.
fn name_in(values: &[HeaderValue]) -> Result<Option<String>, &'static str> {
    let [value] = values else {
        return Err("it is there more than once");
    };
    let name = decoded(value);
    let name = name.trim();
    if name.is_empty() {
        return Ok(None);
    }
    if name.len() > MAX_NAME {
        return Err("its value is longer than 254 bytes");
    }
    match name.chars().any(is_invisible) {
        true => Err("its value contains control characters"),
        false => Ok(Some(name.to_owned())),
    }
}

/// The text of a value: Open WebUI percent-encodes names in UTF-8 and leaves addresses as they are;
/// other programs write UTF-8 or Latin-1.
fn decoded(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    };
    let plain = percent_decode_str(&text).decode_utf8().ok();
    plain.map(|plain| plain.into_owned()).unwrap_or(text)
}

/// Control characters, and characters that change the order or the lines of a text that is displayed.
fn is_invisible(c: char) -> bool {
    let is_format = matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    );
    c.is_control() || is_format
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_layers::api_key::Role;

    use super::*;

    const EMAIL: &str = "x-openwebui-user-email";
    const NAME: &str = "x-openwebui-user-name";

    fn delegation() -> Delegation {
        let delegation = Delegation::default();
        delegation.0.set(Rules {
            keys: ["webui".into()].into(),
            headers: [EMAIL, NAME].map(HeaderName::from_static).into(),
        });
        delegation
    }

    /// The user of a request with this key, and whether a header is left.
    fn user(key: Option<&str>, fields: &[(&'static str, &[u8])]) -> Result<Option<String>, String> {
        let mut request = Request::new(());
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(*name, value);
        }
        if let Some(name) = key {
            let (name, role) = (name.into(), Role::User);
            request.extensions_mut().insert(Identity { name, role });
        }
        let checked = delegation().filter(&mut request);
        checked.map_err(|failure| failure.to_string())?;
        assert!(request.headers().is_empty(), "{:?}", request.headers());
        let user = request.extensions().get::<DelegatedUser>();
        Ok(user.map(|user| user.0.to_string()))
    }

    #[test]
    fn only_a_key_that_may_delegate_names_its_user() {
        let ada: &[(&str, &[u8])] = &[(EMAIL, b"ada@example.org")];
        assert_eq!(
            user(Some("webui"), ada),
            Ok(Some("webui/ada@example.org".to_owned()))
        );
        assert_eq!(user(Some("bob"), ada), Ok(None));
        assert_eq!(user(None, ada), Ok(None));
        assert_eq!(user(Some("webui"), &[]), Ok(None));
        let invalid: &[(&str, &[u8])] = &[(EMAIL, b"a"), (EMAIL, b"b")];
        assert_eq!(user(Some("bob"), invalid), Ok(None), "it is ignored");
    }

    #[test]
    fn the_first_header_with_a_name_counts() {
        let both: &[(&str, &[u8])] = &[(NAME, b"Ada"), (EMAIL, b"ada@example.org")];
        let found = user(Some("webui"), both).unwrap();
        assert_eq!(found.as_deref(), Some("webui/ada@example.org"));
        let only_name: &[(&str, &[u8])] = &[(NAME, b"Ada"), (EMAIL, b" ")];
        let found = user(Some("webui"), only_name).unwrap();
        assert_eq!(found.as_deref(), Some("webui/Ada"));
    }

    #[test]
    fn names_are_decoded() {
        for (value, expected) in [
            (&b"Ada Lovelace"[..], "webui/Ada Lovelace"),
            (b"Zo%C3%AB M%C3%BCller", "webui/Zo\u{eb} M\u{fc}ller"),
            ("Zo\u{eb}".as_bytes(), "webui/Zo\u{eb}"),
            (b"Zo\xeb", "webui/Zo\u{eb}"),
            (b"100%", "webui/100%"),
            (b"a%FFb", "webui/a%FFb"),
            (b"ada+chat@example.org", "webui/ada+chat@example.org"),
            (b"a/b", "webui/a/b"),
        ] {
            let found = user(Some("webui"), &[(EMAIL, value)]).unwrap();
            assert_eq!(found.as_deref(), Some(expected), "{value:?}");
        }
        assert_eq!(key_of_user("webui/a/b"), Some("webui"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for value in [
            &b"a%0Ab"[..],
            b"a%00",
            b"a%E2%80%AEb",
            b"a\tb",
            b"a\xc2\x85b",
            long.as_bytes(),
        ] {
            let error = user(Some("webui"), &[(EMAIL, value)]).unwrap_err();
            assert!(error.contains(EMAIL), "{error}");
        }
        let twice: &[(&str, &[u8])] = &[(EMAIL, b"a"), (EMAIL, b"b")];
        assert!(user(Some("webui"), twice).is_err());
    }
}
