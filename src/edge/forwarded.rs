//! Parses `Forwarded` and `X-Forwarded-For`.
//!
//! The parsers are strict: a client can write the beginning of either header, and must not change
//! how the rest is parsed.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The addresses in one `X-Forwarded-For` field, last (nearest) first; `None` for an item that is
/// not an address.
pub(super) fn listed(field: &str) -> impl Iterator<Item = Option<IpAddr>> {
    let texts = field.rsplit(',').map(str::trim);
    texts.filter(|text| !text.is_empty()).map(listed_address)
}

/// Parses an address in the forms that proxies write: alone, in brackets, with a port.
fn listed_address(text: &str) -> Option<IpAddr> {
    let ip = text.parse().ok();
    let ip = ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    let ip = ip.or_else(|| {
        let text = text.strip_prefix('[')?.strip_suffix(']')?;
        text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    })?;
    Some(ip.to_canonical())
}

/// The `for` value of each element in one `Forwarded` field (RFC 7239), in the order of the field.
/// An element is `None` if it has no address (`unknown`, `_hidden`, no `for`). Returns `None` if
/// any part of the field is malformed.
pub(super) fn elements(field: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut found = Vec::new();
    let mut rest = field;
    loop {
        let (element, behind) = element(rest)?;
        found.extend(element);
        match behind.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => return Some(found),
        }
    }
}

/// The address of an element; `None` for an empty element, which a list may have.
type Element = Option<Option<IpAddr>>;

/// Parses the first element of a text. Returns it with the rest, which is empty or begins with a
/// comma.
fn element(text: &str) -> Option<(Element, &str)> {
    let (mut is_empty, mut named) = (true, None);
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(BLANKS);
        if rest.starts_with(is_token_char) {
            let (name, value, behind) = pair(rest)?;
            if name.eq_ignore_ascii_case("for") && named.replace(node(&value)).is_some() {
                return None;
            }
            is_empty = false;
            rest = behind.trim_start_matches(BLANKS);
        }
        match rest.strip_prefix(';') {
            Some(behind) => rest = behind,
            None if rest.is_empty() || rest.starts_with(',') => {
                return Some(((!is_empty).then(|| named.flatten()), rest));
            }
            None => return None,
        }
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// Parses `name=value`; returns both and the rest.
fn pair(text: &str) -> Option<(&str, Cow<'_, str>, &str)> {
    let (name, rest) = text.split_once('=')?;
    if !name.chars().all(is_token_char) {
        return None;
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, behind) = unquoted(quoted)?;
        return Some((name, value.into(), behind));
    }
    let end = rest.find(|c| !is_token_char(c)).unwrap_or(rest.len());
    let (value, behind) = rest.split_at(end);
    (!value.is_empty()).then_some((name, value.into(), behind))
}

/// Parses a quoted string after its opening quote; returns the text and the rest.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// Parses a node: an IPv4 address, or an IPv6 address in brackets, with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let (ip, port): (IpAddr, _) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, behind) = rest.split_once(']')?;
            (ip.parse::<Ipv6Addr>().ok()?.into(), behind)
        }
        None => {
            let (ip, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (ip.parse::<Ipv4Addr>().ok()?.into(), port)
        }
    };
    let has_sound_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    has_sound_port.then(|| ip.to_canonical())
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(hidden) => !hidden.is_empty() && hidden.chars().all(is_token_char),
        None => text.len() <= 5 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn forms_of_rfc_7239_are_read() {
        for (field, expected) in [
            ("for=192.0.2.43", vec![ip("192.0.2.43")]),
            ("For=\"192.0.2.43:47011\"", vec![ip("192.0.2.43")]),
            (
                "for=\"[2001:db8:cafe::17]:4711\"",
                vec![ip("2001:db8:cafe::17")],
            ),
            ("FOR=\"[2001:db8::17]\"", vec![ip("2001:db8::17")]),
            ("for=\"[::ffff:192.0.2.1]\"", vec![ip("192.0.2.1")]),
            ("for=\"192.0.2.43:_p\"", vec![ip("192.0.2.43")]),
            ("for=\"19\\2.0.2.43\"", vec![ip("192.0.2.43")]),
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                vec![ip("192.0.2.60")],
            ),
            ("proto=http ; for=192.0.2.60", vec![ip("192.0.2.60")]),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec![ip("192.0.2.43"), ip("198.51.100.17")],
            ),
            ("for=unknown,for=192.0.2.1", vec![None, ip("192.0.2.1")]),
            ("for=_hidden, for=\"_SEVKISEK\"", vec![None, None]),
            ("proto=https", vec![None]),
            ("host=\"a,b;c\";for=192.0.2.1", vec![ip("192.0.2.1")]),
            (" , for=192.0.2.1,,", vec![ip("192.0.2.1")]),
            ("", vec![]),
        ] {
            assert_eq!(elements(field), Some(expected), "{field}");
        }
    }

    #[test]
    fn a_malformed_field_is_ignored() {
        for field in [
            "for=192.0.2.1, for=\"",
            "for=1.1.1.1, x=\", for=\"192.0.2.1\"",
            "for=1.1.1.1, x=\"\\",
            "192.0.2.1",
            "for=",
            "for",
            "for=192.0.2.1;for=192.0.2.2",
            "for=192.0.2.1:80",
            "for=[2001:db8::1]",
            "for=192.0.2.1 proto=http",
            "=192.0.2.1",
            "f r=192.0.2.1",
        ] {
            assert_eq!(elements(field), None, "{field}");
        }
        for node in [
            "for=\"[2001:db8::1\"",
            "for=\"2001:db8::1\"",
            "for=\"192.0.2.1:\"",
            "for=\"192.0.2.1:123456\"",
            "for=\"[::1]x\"",
            "for=300.0.0.1",
            "for=\"[::1]:\"",
        ] {
            assert_eq!(elements(node), Some(vec![None]), "{node}");
        }
    }

    #[test]
    fn a_list_is_read_from_its_end() {
        let all = |field| listed(field).collect::<Vec<_>>();
        assert_eq!(
            all(
                "203.0.113.9, 198.51.100.7:80 ,[2001:db8::1]:443, 2001:db8::2,[::1],::ffff:10.0.0.1"
            ),
            [
                ip("10.0.0.1"),
                ip("::1"),
                ip("2001:db8::2"),
                ip("2001:db8::1"),
                ip("198.51.100.7"),
                ip("203.0.113.9"),
            ]
        );
        assert_eq!(all("unknown, , _x,1.2.3"), [None, None, None]);
        assert_eq!(all(""), []);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(field in "\\PC{0,40}", list in "[0-9a-f:.,\\[\\] \"]{0,40}") {
            let _ = elements(&field);
            let _ = elements(&list);
            let _ = listed(&field).count();
            let _ = listed(&list).count();
        }

        /// A client writes the beginning of the field, its proxy writes the end.
        #[test]
        fn a_clients_text_does_not_change_the_address_that_a_proxy_appends(before in "[for=\"\\\\;, 0-9.:\\[\\]a-z]{0,30}") {
            if let Some(found) = elements(&format!("{before}, for=\"[2001:db8::1]:80\"")) {
                prop_assert_eq!(found.last(), Some(&ip("2001:db8::1")));
            }
            if let Some(found) = elements(&format!("{before}, for=192.0.2.1;proto=https")) {
                prop_assert_eq!(found.last(), Some(&ip("192.0.2.1")));
            }
            let first = listed(&format!("{before}, 192.0.2.1")).next();
            prop_assert_eq!(first, Some(ip("192.0.2.1")));
        }
    }
}
