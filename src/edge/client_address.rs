//! The address of a client behind trusted proxies.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::forwarded::{elements, listed};
use super::trusted_proxies::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of a request's client. For a peer that is not trusted it is the peer's address.
/// For a trusted proxy it is the nearest address in the header that is not trusted. A malformed
/// or hidden entry ends the search; the last known address then counts. `None` for a client on
/// a unix socket.
///
/// A proxy writes one of the two headers and may pass on the other as the client wrote it. If
/// both are present they must agree; otherwise the proxy's own address counts.
pub(super) fn client_address(
    trusted: &TrustedProxies,
    peer: Option<IpAddr>,
    headers: &HeaderMap,
) -> Option<IpAddr> {
    if !trusted.trust(peer) {
        return peer;
    }
    let by_list = headers.contains_key(X_FORWARDED_FOR).then(|| {
        let fields = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let hops = fields.flat_map(|field| listed(field.to_str().unwrap_or("?")));
        walk(trusted, peer, hops)
    });
    let by_elements = headers.contains_key(FORWARDED).then(|| {
        let fields = headers.get_all(FORWARDED).iter().rev();
        walk(trusted, peer, fields.flat_map(hops_of))
    });
    match (by_list, by_elements) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(client), _) | (None, Some(client)) => client,
        (None, None) => peer,
    }
}

/// Walks from the nearest hop to the first that is not trusted, or that is not known.
fn walk(
    trusted: &TrustedProxies,
    nearest: Option<IpAddr>,
    mut hops: impl Iterator<Item = Option<IpAddr>>,
) -> Option<IpAddr> {
    let mut known = nearest;
    while let Some(Some(hop)) = hops.next() {
        known = Some(hop);
        if !trusted.trust(Some(hop)) {
            break;
        }
    }
    known
}

/// The hops in one `Forwarded` field, nearest first; a single unknown hop if the field is
/// malformed.
fn hops_of(field: &HeaderValue) -> impl Iterator<Item = Option<IpAddr>> + use<> {
    let hops = field.to_str().ok().and_then(elements);
    hops.unwrap_or_else(|| vec![None]).into_iter().rev()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    /// The client's address for a request from the trusted proxy 10.0.0.1 with these fields.
    fn client(fields: &[(&'static str, &str)]) -> Option<String> {
        client_behind(PROXY, fields)
    }

    fn client_behind(peer: &str, fields: &[(&'static str, &str)]) -> Option<String> {
        let proxies = TrustedProxies::with(["10.0.0.0/8", "fd00::/8", "192.0.2.7"]).expect("valid");
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        let peer: IpAddr = peer.parse().expect("an address");
        let client = client_address(&proxies, Some(peer.to_canonical()), &headers);
        client.map(|client| client.to_string())
    }

    #[test]
    fn headers_are_read_only_from_trusted_proxies() {
        for peer in ["203.0.113.5", "192.0.2.8", "2001:db8::1", "127.0.0.1"] {
            for name in ["x-forwarded-for", "forwarded"] {
                let value = match name {
                    "forwarded" => "for=198.51.100.1",
                    _ => "198.51.100.1",
                };
                assert_eq!(client_behind(peer, &[(name, value)]).as_deref(), Some(peer));
            }
        }
        for peer in [PROXY, "192.0.2.7", "::ffff:10.0.0.9", "fd00::1"] {
            let seen = client_behind(peer, &[("x-forwarded-for", "198.51.100.1")]);
            assert_eq!(seen.as_deref(), Some("198.51.100.1"), "{peer}");
        }
    }

    #[test]
    fn the_nearest_address_that_is_not_trusted_is_the_client() {
        let list = "x-forwarded-for";
        for (fields, expected) in [
            (
                &[(list, "1.1.1.1, 198.51.100.1, 10.2.3.4, 192.0.2.7")][..],
                "198.51.100.1",
            ),
            (
                &[(list, "1.1.1.1"), (list, "198.51.100.1, 10.2.3.4")],
                "198.51.100.1",
            ),
            (&[(list, "10.9.9.9, 10.2.3.4")], "10.9.9.9"),
            (&[(list, "198.51.100.1, unknown, 10.2.3.4")], "10.2.3.4"),
            (&[(list, "198.51.100.1, nonsense")], PROXY),
            (&[(list, "")], PROXY),
            (
                &[(
                    "forwarded",
                    "for=1.1.1.1, for=198.51.100.1;proto=https, for=\"[fd00::2]:1\"",
                )],
                "198.51.100.1",
            ),
            (
                &[
                    ("forwarded", "for=1.1.1.1"),
                    ("forwarded", "for=198.51.100.1"),
                ],
                "198.51.100.1",
            ),
            (&[("forwarded", "for=198.51.100.1, for=_hidden")], PROXY),
            (
                &[("forwarded", "for=198.51.100.1, for=unknown, for=10.2.3.4")],
                "10.2.3.4",
            ),
            (&[("forwarded", "for=\"")], PROXY),
            (
                &[
                    ("forwarded", "for=1.1.1.1, x=\""),
                    ("forwarded", "for=198.51.100.1"),
                ],
                "198.51.100.1",
            ),
            (&[], PROXY),
        ] {
            assert_eq!(client(fields).as_deref(), Some(expected), "{fields:?}");
        }
    }

    #[test]
    fn two_headers_have_to_agree() {
        let list = ("x-forwarded-for", "198.51.100.1");
        let same = [list, ("forwarded", "for=198.51.100.1")];
        assert_eq!(client(&same).as_deref(), Some("198.51.100.1"));
        let forged = [list, ("forwarded", "for=1.1.1.1")];
        assert_eq!(client(&forged).as_deref(), Some(PROXY));
    }

    #[test]
    fn the_entry_unix_trusts_peers_on_unix_sockets() {
        let mut headers = HeaderMap::new();
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.1"));
        let of = |entries: &[&str]| {
            let proxies = TrustedProxies::with(entries).expect("valid");
            client_address(&proxies, None, &headers)
        };
        assert_eq!(of(&["10.0.0.0/8"]), None);
        assert_eq!(of(&["unix"]), "198.51.100.1".parse().ok());
    }

    proptest! {
        /// The address that the proxy has appended is the client's, whatever the client writes
        /// before it.
        #[test]
        fn a_client_cannot_choose_its_address(before in "[0-9a-z.:,;=\"\\\\\\[\\] ]{0,40}") {
            let list = format!("{before}, 198.51.100.1");
            let seen = client(&[("x-forwarded-for", &list)]);
            prop_assert_eq!(seen.as_deref(), Some("198.51.100.1"));
            let elements = format!("{before}, for=198.51.100.1");
            let seen = client(&[("forwarded", &elements)]);
            prop_assert!(matches!(seen.as_deref(), Some("198.51.100.1" | PROXY)));
        }
    }
}
