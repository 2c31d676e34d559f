//! Where a backend is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};

/// Ollama's own port.
const DEFAULT_PORT: u16 = 11434;

/// The address of a plain-HTTP backend: a host and a port, and which of the host's addresses, if
/// that is known.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
    authority: HeaderValue,
    ip: Option<IpAddr>,
    is_shown_by_ip: bool,
}

impl Address {
    /// The host as a resolver takes it, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// This one of the host's addresses. The host's name still stands in `Host` and in what is
    /// shown.
    pub fn at(&self, ip: IpAddr) -> Self {
        Self {
            ip: Some(ip),
            ..self.clone()
        }
    }

    /// This one of the host's addresses, shown as such: one of several behind a name.
    pub fn one_at(&self, ip: IpAddr) -> Self {
        Self {
            is_shown_by_ip: true,
            ..self.at(ip)
        }
    }

    /// Where to connect; `None` if the name is still to be resolved.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip.or_else(|| self.host.parse().ok())
    }

    /// What stands in `Host`: the backend's own authority, never the client's.
    pub fn authority_header(&self) -> HeaderValue {
        self.authority.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip.filter(|_| self.is_shown_by_ip) {
            Some(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            None if self.host.contains(':') => write!(f, "[{}]:{}", self.host, self.port),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the address of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAddress {
    given: String,
    reason: &'static str,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not the address of a backend: {}; write it like http://localhost:11434",
            self.given, self.reason
        )
    }
}

impl std::error::Error for InvalidAddress {}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// Takes `http://host:port`; scheme, port and a trailing slash may be left out.
    fn from_str(given: &str) -> Result<Self, InvalidAddress> {
        let invalid = |reason| InvalidAddress {
            given: given.to_owned(),
            reason,
        };
        let text = given.trim();
        let text = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = text.parse().map_err(|_| invalid("it is no URL"))?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(invalid("backends are asked by plain http"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("it must have no path and no query"));
        }
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
        Self::from_authority(authority).ok_or_else(|| invalid("it needs a host, and no user name"))
    }
}

impl Address {
    fn from_authority(authority: &Authority) -> Option<Self> {
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().trim_matches(['[', ']']).into();
        let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
        let shown = Self {
            host,
            port,
            authority: HeaderValue::from_static(""),
            ip: None,
            is_shown_by_ip: false,
        };
        let authority = HeaderValue::try_from(shown.to_string()).ok()?;
        Some(Self { authority, ..shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_for_ollama_is_understood() {
        for (given, shown) in [
            ("http://localhost:11434", "localhost:11434"),
            ("http://gpu-1:8080/", "gpu-1:8080"),
            ("gpu-1", "gpu-1:11434"),
            ("10.0.0.7:11434", "10.0.0.7:11434"),
            ("http://[::1]:11434", "[::1]:11434"),
        ] {
            let address: Address = given.parse().expect(given);
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.authority_header(), shown);
        }
        let v6: Address = "http://[::1]:1".parse().expect("an IPv6 address");
        assert_eq!(v6.host(), "::1");
    }

    #[test]
    fn one_address_of_several_is_shown_instead_of_the_name_that_it_is_asked_by() {
        let name: Address = "http://ollama.models:11434".parse().expect("a name");
        assert_eq!(name.ip(), None);
        let only = name.at([10, 0, 0, 7].into());
        assert_eq!(only.to_string(), "ollama.models:11434");
        let one = name.one_at([10, 0, 0, 7].into());
        assert_eq!(one.to_string(), "10.0.0.7:11434");
        assert_eq!(one.authority_header(), "ollama.models:11434");
        assert_eq!(one.ip(), Some([10, 0, 0, 7].into()));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_a_reason() {
        for given in [
            "",
            "https://gpu",
            "http://u:p@gpu",
            "http://gpu/prefix",
            "http://gpu?x",
            "a b",
        ] {
            let refused = given.parse::<Address>().expect_err(given);
            assert!(
                refused.to_string().contains("http://localhost:11434"),
                "{refused}"
            );
        }
    }
}
