//! Where a backend is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};

/// Ollama's own port.
const OLLAMA_PORT: u16 = 11434;

/// The port of `https` where an address names none.
const HTTPS_PORT: u16 = 443;

/// The address of a backend: scheme, host, port and a prefix of all paths, and which of the host's
/// IP addresses, if that is known. It never holds a user name or a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
    is_https: bool,
    /// Begins with a slash and ends without one; empty if there is none.
    prefix: Arc<str>,
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

    /// Whether the backend is asked over TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// What stands before the path of every request: empty, or like `/ollama`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Those of `servers` that a setting calls `name`: by an address as in `OLLAMA_URL`; if it is the
    /// address of none, by host and port or by the host alone.
    pub fn called<'a>(servers: &'a [Self], name: &str) -> Vec<&'a Self> {
        let address: Option<Self> = name.parse().ok();
        let is_it = |server: &&Self| address.as_ref() == Some(*server);
        let is_like_it = |server: &&Self| {
            name.eq_ignore_ascii_case(&server.host) || name == server.host_and_port()
        };
        let exactly: Vec<_> = servers.iter().filter(is_it).collect();
        match exactly.is_empty() {
            true => servers.iter().filter(is_like_it).collect(),
            false => exactly,
        }
    }

    /// The address as it was configured, whichever IP address of the host this is.
    pub fn configured(&self) -> Self {
        Self {
            ip: None,
            is_shown_by_ip: false,
            ..self.clone()
        }
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

    fn host_and_port(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip.filter(|_| self.is_shown_by_ip) {
            Some(ip) => write!(f, "{}{}", SocketAddr::new(ip, self.port), self.prefix),
            None => write!(f, "{}{}", self.host_and_port(), self.prefix),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the address of a backend. A text with an `@`, which may hold a password, is
/// not repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAddress {
    given: Option<String>,
    reason: &'static str,
}

impl InvalidAddress {
    fn new(given: &str, reason: &'static str) -> Self {
        let may_hold_a_secret = has_user(given) || given.contains("%40");
        Self {
            given: (!may_hold_a_secret).then(|| given.to_owned()),
            reason,
        }
    }
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.given {
            Some(given) => write!(f, "{given:?} is not the address of a backend: ")?,
            None => f.write_str("a text that is not shown is not the address of a backend: ")?,
        }
        write!(
            f,
            "{}; write it like http://localhost:11434 or https://gpu.example/ollama",
            self.reason
        )
    }
}

impl std::error::Error for InvalidAddress {}

/// Whether a text may be an address with a user name and a password in it.
pub fn has_user(text: &str) -> bool {
    text.contains('@')
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// Takes `http://host:port/prefix` and `https://host:port/prefix`; `http`, the port and the
    /// prefix may be left out.
    fn from_str(given: &str) -> Result<Self, InvalidAddress> {
        let invalid = |reason| InvalidAddress::new(given, reason);
        if has_user(given) {
            return Err(invalid(
                "it must hold no user name and no password; LLAMATOWER_BACKEND_TOKENS takes them",
            ));
        }
        let text = given.trim();
        let text = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = text.parse().map_err(|_| invalid("it is no URL"))?;
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(invalid("backends are asked by http or https")),
        };
        if text.contains(['?', '#']) {
            return Err(invalid("it must have no query and no fragment"));
        }
        let prefix = uri.path().trim_end_matches('/');
        if !is_plain_path(prefix) {
            return Err(invalid(
                "its path is more than letters, digits and -_.~ between slashes",
            ));
        }
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
        let port = authority.as_str().strip_prefix(authority.host());
        if port.is_some_and(|port| port.len() > 1) && authority.port_u16().is_none() {
            return Err(invalid("its port is no number up to 65535"));
        }
        Self::new(authority, is_https, prefix).ok_or_else(|| invalid("it has no host"))
    }
}

/// A path that every server reads in the same way; or none.
fn is_plain_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut parts = path.split('/').skip(1);
    parts.all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain))
}

impl Address {
    fn new(authority: &Authority, is_https: bool, prefix: &str) -> Option<Self> {
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return None;
        }
        let default_port = if is_https { HTTPS_PORT } else { OLLAMA_PORT };
        let mut address = Self {
            host: host.into(),
            port: authority.port_u16().unwrap_or(default_port),
            is_https,
            prefix: prefix.into(),
            authority: HeaderValue::from_static(""),
            ip: None,
            is_shown_by_ip: false,
        };
        // The port of the scheme is left out, as browsers do: servers choose a site by this field.
        address.authority = match is_https && address.port == HTTPS_PORT {
            true => HeaderValue::try_from(authority.host()).ok()?,
            false => HeaderValue::try_from(address.host_and_port()).ok()?,
        };
        Some(address)
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
    fn https_has_a_port_of_its_own_and_a_prefix_stands_in_what_is_shown() {
        for (given, shown, authority) in [
            ("https://gpu.example", "gpu.example:443", "gpu.example"),
            ("HTTPS://gpu.example:443/", "gpu.example:443", "gpu.example"),
            (
                "https://gpu.example:8443/a/b/",
                "gpu.example:8443/a/b",
                "gpu.example:8443",
            ),
            ("https://[::1]/ollama", "[::1]:443/ollama", "[::1]"),
            ("http://gpu-1/ollama", "gpu-1:11434/ollama", "gpu-1:11434"),
        ] {
            let address: Address = given.parse().expect(given);
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.authority_header(), authority);
        }
        let address: Address = "https://gpu.example/ollama".parse().expect("an address");
        assert!(address.is_https());
        assert_eq!(address.prefix(), "/ollama");
        let one = address.one_at([10, 0, 0, 7].into());
        assert_eq!(one.to_string(), "10.0.0.7:443/ollama");
        assert_eq!(one.authority_header(), "gpu.example");
    }

    #[test]
    fn a_server_is_called_by_its_address_or_its_host_with_or_without_the_port() {
        let servers = [
            "gpu-1",
            "gpu-1:1",
            "https://gpu.example/a",
            "https://gpu.example/b",
        ];
        let servers = servers.map(|server| server.parse().expect("an address"));
        for (name, expected) in [
            ("gpu-1", &[0][..]),
            ("http://gpu-1:1", &[1]),
            ("https://gpu.example/b", &[3]),
            ("GPU.example", &[2, 3]),
            ("gpu.example:443", &[2, 3]),
            ("gpu", &[]),
            ("gpu.example:8443", &[]),
            ("http://gpu.example/a", &[]),
            ("https://gpu.example", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|index| &servers[*index]).collect();
            assert_eq!(Address::called(&servers, name), expected, "{name}");
        }
    }

    #[test]
    fn a_user_name_is_refused_and_the_text_never_repeated() {
        for given in [
            "http://u:hunter2@gpu",
            "https://hunter2@gpu.example/ollama",
            "u:hunter2@gpu",
            "http://u:hunter2%40gpu",
            "ftp://u:hunter2@gpu",
            "hunter2@",
        ] {
            let refused = given.parse::<Address>().expect_err(given);
            for told in [refused.to_string(), format!("{refused:?}")] {
                assert!(!told.contains("hunter2"), "{told}");
            }
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_a_reason() {
        for given in [
            "",
            "ftp://gpu",
            "https://",
            "http://gpu?x",
            "http://gpu/a?x",
            "http://gpu#x",
            "http://gpu:65536",
            "http://gpu:x",
            "https://gpu/a//b",
            "https://gpu/a/../b",
            "https://gpu/%2e",
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
