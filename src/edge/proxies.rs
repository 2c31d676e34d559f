//! The address of a client behind trusted proxies.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::forwarded::{elements, listed};
use super::listener::PeerAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The trusted proxies. `Forwarded` and `X-Forwarded-For` are read only in requests from them.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    /// Whether peers on unix sockets are trusted.
    unix: bool,
}

/// The entry is not a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a proxy: write an address (10.0.0.2), a network (10.0.0.0/8, fd00::/8), or unix"
)]
pub struct InvalidProxy(String);

impl TrustedProxies {
    /// Reads addresses, networks in CIDR notation, and `unix` for all peers on unix sockets.
    ///
    /// # Errors
    /// An entry has none of these forms.
    pub fn with<I>(entries: I) -> Result<Self, InvalidProxy>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut proxies = Self::default();
        for entry in entries {
            let entry = entry.as_ref().trim();
            if entry == "unix" {
                proxies.unix = true;
                continue;
            }
            let address = entry
                .parse()
                .map(|ip: IpAddr| IpNet::from(ip.to_canonical()));
            let network = address.or_else(|_| entry.parse::<IpNet>());
            let network = network.map_err(|_| InvalidProxy(entry.to_owned()))?;
            proxies.networks.push(network.trunc());
        }
        Ok(proxies)
    }

    /// The address of a request's client. For a peer that is not trusted it is the peer's address.
    /// For a trusted proxy it is the nearest address in the header that is not trusted. A malformed
    /// or hidden entry ends the search; the last known address then counts. `None` for a client on
    /// a unix socket.
    ///
    /// A proxy writes one of the two headers and may pass on the other as the client wrote it. If
    /// both are present they must agree; otherwise the proxy's own address counts.
    pub(super) fn client(&self, peer: PeerAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let nearest = peer.ip();
        if !self.trusts(peer) {
            return nearest;
        }
        let by_list = headers.contains_key(X_FORWARDED_FOR).then(|| {
            let fields = headers.get_all(X_FORWARDED_FOR).iter().rev();
            let hops = fields.flat_map(|field| listed(field.to_str().unwrap_or("?")));
            self.walk(nearest, hops)
        });
        let by_elements = headers.contains_key(FORWARDED).then(|| {
            let fields = headers.get_all(FORWARDED).iter().rev();
            self.walk(nearest, fields.flat_map(hops_of))
        });
        match (by_list, by_elements) {
            (Some(one), Some(other)) if one != other => nearest,
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => nearest,
        }
    }

    /// Walks from the nearest hop to the first that is not trusted, or that is not known.
    fn walk(
        &self,
        nearest: Option<IpAddr>,
        mut hops: impl Iterator<Item = Option<IpAddr>>,
    ) -> Option<IpAddr> {
        let mut known = nearest;
        while let Some(Some(hop)) = hops.next() {
            known = Some(hop);
            if !self.contains(hop) {
                break;
            }
        }
        known
    }

    fn trusts(&self, peer: PeerAddr) -> bool {
        match peer.ip() {
            Some(ip) => self.contains(ip),
            None => self.unix,
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }
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
        let peer = PeerAddr::Ip((peer.parse::<IpAddr>().expect("an address"), 4711).into());
        let client = proxies.client(peer, &headers);
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
            proxies.client(PeerAddr::Unix, &headers)
        };
        assert_eq!(of(&["10.0.0.0/8"]), None);
        assert_eq!(of(&["unix"]), "198.51.100.1".parse().ok());
    }

    #[test]
    fn an_entry_is_an_address_or_a_network() {
        for entry in ["10.0.0.1/8", "::1", "fd00::/8", "unix", "0.0.0.0/0"] {
            assert!(TrustedProxies::with([entry]).is_ok(), "{entry}");
        }
        for entry in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.1:80",
            "Unix",
            "*",
        ] {
            let error = TrustedProxies::with([entry]).expect_err(entry).to_string();
            assert!(error.starts_with(&format!("{entry:?}")), "{error}");
        }
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
