//! The PROXY protocol, versions 1 and 2: a proxy that passes on connections writes the address of its
//! client before the client's first byte.
//!
//! Anyone could write such a header, so it is read from trusted proxies only, and a listener either
//! requires it of every connection or reads none: a header that may be missing could be the client's.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf, BytesMut};
use proxy_header::{Error, ParseConfig, ProxyHeader};

use super::address::PeerAddr;
use super::begin::{read, readable};
use super::gauges::Gauges;
use super::listener::Stream;
use super::seldom::Seldom;
use super::trusted_proxies::TrustedProxies;

/// The longest header: version 2 has 16 bytes and a length of two more.
const MAX_HEADER: usize = 16 + u16::MAX as usize;

/// The fields of version 2 after the addresses are not used.
const PARSING: ParseConfig = ParseConfig {
    include_tlvs: false,
    allow_v1: true,
    allow_v2: true,
};

/// Reads the header of each connection.
pub(super) struct ProxyHeaders {
    proxies: TrustedProxies,
    gauges: Arc<Gauges>,
    logged: Seldom,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug)]
enum Reason {
    NotTrusted,
    NoHeader,
}

impl ProxyHeaders {
    pub(super) fn new(proxies: TrustedProxies, gauges: Arc<Gauges>) -> Self {
        Self {
            proxies,
            gauges,
            logged: Seldom::default(),
        }
    }

    /// Reads the header of a new connection. Returns the client, and what was read after the header.
    ///
    /// # Errors
    /// The connection is to be closed without an answer: the proxy expects none.
    pub(super) async fn read(
        &self,
        stream: &Stream,
        peer: PeerAddr,
    ) -> io::Result<(PeerAddr, BytesMut)> {
        if !self.proxies.trust(peer.ip()) {
            return Err(self.refused(peer, Reason::NotTrusted));
        }
        let mut bytes = BytesMut::new();
        loop {
            match ProxyHeader::parse(&bytes, PARSING) {
                Ok((header, length)) => {
                    let client = client_of(&header, peer);
                    bytes.advance(length);
                    return Ok((client, bytes));
                }
                Err(Error::BufferTooShort) if bytes.len() < MAX_HEADER => {}
                Err(_) => return Err(self.refused(peer, Reason::NoHeader)),
            }
            readable(stream).await?;
            match read(stream) {
                // A check whether the port is open.
                Ok(more) if more.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => bytes.extend_from_slice(&more),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn refused(&self, peer: PeerAddr, reason: Reason) -> io::Error {
        self.gauges.refused_heads.fetch_add(1, Relaxed);
        if self.logged.is_due() {
            reason.log(peer.ip());
        }
        io::ErrorKind::PermissionDenied.into()
    }
}

impl Reason {
    fn log(self, peer: Option<IpAddr>) {
        let peer = peer.map_or_else(|| "unix".to_owned(), |ip| ip.to_string());
        match self {
            Self::NotTrusted => tracing::warn!(
                peer,
                "closed a connection that is not from a proxy in LLAMATOWER_TRUSTED_PROXIES; \
                 LLAMATOWER_PROXY_PROTOCOL=required accepts no others"
            ),
            Self::NoHeader => tracing::warn!(
                peer,
                "closed a connection of a proxy that does not begin with a header of the PROXY protocol; \
                 make the proxy send it (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or set \
                 LLAMATOWER_PROXY_PROTOCOL=off"
            ),
        }
    }
}

/// The client in a header. Without an address it is the proxy itself, as for its health checks
/// (`LOCAL`), or a client that has no address of the internet.
fn client_of(header: &ProxyHeader<'_>, proxy: PeerAddr) -> PeerAddr {
    match header.proxied_address() {
        Some(addresses) => PeerAddr::Ip(addresses.source),
        None => PeerAddr::Unknown { proxy: proxy.ip() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const PROXY: PeerAddr = PeerAddr::Unix;

    fn client(bytes: &[u8]) -> Result<Option<IpAddr>, Error> {
        let (header, _) = ProxyHeader::parse(bytes, PARSING)?;
        Ok(client_of(&header, PROXY).ip())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn the_source_is_the_client_and_fields_after_it_are_skipped() {
        let ip = |text: &str| Ok(Some(text.parse().unwrap()));
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0x1f, 0x90, 0x01, 0xbb];
        assert_eq!(client(&version_2(0x21, 0x11, &v4)), ip("198.51.100.7"));
        let mut with_fields = v4.to_vec();
        with_fields.extend([0x02, 0, 3, b'a', b'.', b'b', 0xea, 0xff, 0xff]);
        assert_eq!(
            client(&version_2(0x21, 0x11, &with_fields)),
            ip("198.51.100.7")
        );
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(client(&version_2(0x21, 0x21, &v6)), ip("2001:db8::"));
        let line = b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\nGET";
        assert_eq!(client(line), ip("198.51.100.7"));
        assert_eq!(
            client(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"),
            ip("2001:db8::7")
        );
    }

    #[test]
    fn a_header_without_an_address_is_that_of_the_proxy() {
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0, 1, 0, 2];
        for header in [
            version_2(0x20, 0x00, &[]),
            version_2(0x20, 0x11, &v4),
            version_2(0x21, 0x00, &[]),
            version_2(0x21, 0x31, &[b'/'; 216]),
            b"PROXY UNKNOWN\r\n".to_vec(),
        ] {
            assert_eq!(client(&header), Ok(None), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0, 1, 0, 2];
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"POST /api/chat HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n".to_vec(),
            version_2(0x31, 0x11, &v4),
            [version_2(0x21, 0x11, &v4[..8]), b"GET / HTTP/1.1".to_vec()].concat(),
            vec![b'P'; 200],
        ] {
            assert_eq!(client(&bytes), Err(Error::Invalid), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            begin in prop::sample::select(vec![&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = begin.to_vec();
            bytes.extend(rest);
            let _ = client(&bytes);
        }
    }
}
