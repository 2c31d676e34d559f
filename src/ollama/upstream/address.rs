//! The address of a backend.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};

/// Ollama's default port.
const OLLAMA_PORT: u16 = 11434;

/// The default port of `https`.
const HTTPS_PORT: u16 = 443;

/// The default port of `http`, for servers other than Ollama.
const HTTP_PORT: u16 = 80;

/// What stands before the scheme of an OpenAI-compatible server.
const OPENAI: &str = "openai+";

/// The dialect of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// Ollama, or a server that acts like it.
    #[default]
    Ollama,
    /// A server of OpenAI's dialect alone.
    OpenAi {
        /// Whether its base path ends with `/v1`, which is then not a part of the
        /// [prefix](Address::prefix).
        has_v1: bool,
    },
}

/// The address of a backend: scheme, host, port, a prefix of all paths, and one of the host's IP
/// addresses if it is known. It never contains a user name or a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Arc<str>,
    port: u16,
    is_https: bool,
    kind: ServerKind,
    /// Begins with a slash and ends without one; may be empty.
    prefix: Arc<str>,
    authority: HeaderValue,
    ip: Option<IpAddr>,
    is_shown_by_ip: bool,
}

impl Address {
    /// The host in a resolver's form, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The beginning of all of its URLs: scheme, host, port and [prefix](Self::prefix).
    pub fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{self}")
    }

    /// Whether the backend is accessed over TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The server's dialect.
    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// Whether it is an OpenAI-compatible server, and not an Ollama.
    pub fn is_openai(&self) -> bool {
        self.kind != ServerKind::Ollama
    }

    /// Whether it is an OpenAI-compatible server whose base path ends with `/v1`.
    pub fn has_v1(&self) -> bool {
        self.kind == ServerKind::OpenAi { has_v1: true }
    }

    /// The prefix of every request's path: empty, or like `/ollama`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The servers that a setting means by `name`. A name in the form of `OLLAMA_URL` means the
    /// server with that address; if there is none, `name` is compared with host and port, and with
    /// the host alone.
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

    /// Whether both addresses mean the same server, in whatever spelling.
    pub fn is_same_server(&self, other: &Self) -> bool {
        let host = |address: &Self| {
            let name = address.host.trim_end_matches('.').to_ascii_lowercase();
            // An IPv6 address has several spellings.
            name.parse().map_or(name, |ip: IpAddr| ip.to_string())
        };
        self.port == other.port
            && self.is_https == other.is_https
            && self.prefix == other.prefix
            && host(self) == host(other)
    }

    /// The address as configured, without the IP address.
    pub fn configured(&self) -> Self {
        Self {
            ip: None,
            is_shown_by_ip: false,
            ..self.clone()
        }
    }

    /// The address with one of the host's IP addresses. `Host` and the displayed name still have
    /// the host's name.
    pub fn at(&self, ip: IpAddr) -> Self {
        Self {
            ip: Some(ip),
            ..self.clone()
        }
    }

    /// The address with one of the host's IP addresses, displayed by it: one of several servers
    /// behind a name.
    pub fn one_at(&self, ip: IpAddr) -> Self {
        Self {
            is_shown_by_ip: true,
            ..self.at(ip)
        }
    }

    /// The IP address to connect to; `None` if the name has to be resolved.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip.or_else(|| self.host.parse().ok())
    }

    /// The value of `Host`: the backend's own authority, never the client's.
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

/// The text is not the address of a backend. A text with an `@` may contain a password and is not
/// repeated in the error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given} is not the address of a backend: {reason}; write it like http://localhost:11434 or \
     https://gpu.example/ollama, or openai+http://gpu-1:8000/v1 for an OpenAI-compatible server"
)]
pub struct InvalidAddress {
    given: String,
    reason: &'static str,
}

impl InvalidAddress {
    fn new(given: &str, reason: &'static str) -> Self {
        // The host may be missing after `user:password`.
        let port = given.rsplit_once(':').map_or("", |(_, port)| port);
        let is_port = port.starts_with("//")
            || port
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'/');
        let may_hold_a_secret = has_user(given) || given.contains("%40") || !is_port;
        Self {
            given: match may_hold_a_secret {
                true => "a text that is not shown".to_owned(),
                false => format!("{given:?}"),
            },
            reason,
        }
    }
}

/// Whether a text may be an address with a user name and a password.
pub fn has_user(text: &str) -> bool {
    text.contains('@')
}

impl FromStr for Address {
    type Err = InvalidAddress;

    /// Accepts `http://host:port/prefix` and `https://host:port/prefix`; `http`, the port and the
    /// prefix are optional. `openai+http://host:port/v1` and `openai+https://host:port/v1` are
    /// OpenAI-compatible servers; the path is the base path of their clients, `/v1` if it is empty.
    fn from_str(given: &str) -> Result<Self, InvalidAddress> {
        let invalid = |reason| InvalidAddress::new(given, reason);
        if has_user(given) {
            return Err(invalid(
                "it must not contain a user name or a password; set LLAMATOWER_BACKEND_TOKENS instead",
            ));
        }
        let text = given.trim();
        let openai = text.get(..OPENAI.len());
        let is_openai = openai.is_some_and(|start| start.eq_ignore_ascii_case(OPENAI));
        let text = if is_openai {
            &text[OPENAI.len()..]
        } else {
            text
        };
        if is_openai && !text.contains("://") {
            return Err(invalid("openai+ must be followed by http:// or https://"));
        }
        let text = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = text.parse().map_err(|_| invalid("it is not a URL"))?;
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(invalid("the scheme must be http or https")),
        };
        if text.contains(['?', '#']) {
            return Err(invalid("it must not have a query or a fragment"));
        }
        let prefix = uri.path().trim_end_matches('/');
        if !is_plain_path(prefix) {
            return Err(invalid(
                "its path may contain only letters, digits and -_.~ between slashes",
            ));
        }
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
        let port = authority.as_str().strip_prefix(authority.host());
        if port.is_some_and(|port| port.len() > 1) && authority.port_u16().is_none() {
            return Err(invalid("its port is not a number up to 65535"));
        }
        let (kind, prefix) = match (is_openai, prefix.strip_suffix("/v1")) {
            (false, _) => (ServerKind::Ollama, prefix),
            (true, Some(before)) => (ServerKind::OpenAi { has_v1: true }, before),
            (true, None) => {
                let has_v1 = prefix.is_empty();
                (ServerKind::OpenAi { has_v1 }, prefix)
            }
        };
        Self::new(authority, is_https, kind, prefix).ok_or_else(|| invalid("it has no host"))
    }
}

/// A path that every server parses in the same way; or none.
fn is_plain_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut parts = path.split('/').skip(1);
    parts.all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(is_plain))
}

impl Address {
    fn new(authority: &Authority, is_https: bool, kind: ServerKind, prefix: &str) -> Option<Self> {
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return None;
        }
        let default_port = match kind {
            _ if is_https => HTTPS_PORT,
            ServerKind::Ollama => OLLAMA_PORT,
            ServerKind::OpenAi { .. } => HTTP_PORT,
        };
        let mut address = Self {
            host: host.into(),
            port: authority.port_u16().unwrap_or(default_port),
            is_https,
            kind,
            prefix: prefix.into(),
            authority: HeaderValue::from_static(""),
            ip: None,
            is_shown_by_ip: false,
        };
        // The default port of the scheme is omitted, as browsers do, because servers choose a
        // virtual host by this field.
        address.authority = match is_https && address.port == HTTPS_PORT {
            true => HeaderValue::try_from(authority.host()).ok()?,
            false => HeaderValue::try_from(address.host_and_port()).ok()?,
        };
        Some(address)
    }
}
