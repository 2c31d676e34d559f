//! What an edge can be told.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use llamatower_layers::EndpointTable;

use super::host::Hosts;
use super::origin::Origins;
use super::proxies::TrustedProxies;
use super::refusal::RefusalObserver;

/// Plain values for an [`Edge`](super::Edge).
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Where to listen. Port 0 lets the system choose.
    pub listen: Vec<ListenAddr>,
    /// How long a request's head may take, from its first byte (on a new connection: from the
    /// connection) to its last.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request. Longer than what clients keep, so
    /// that the client closes first and no request meets a closing socket.
    pub keep_alive_timeout: Duration,
    /// The longest wait between two pieces of a request's body.
    pub body_timeout: Option<Duration>,
    /// How long a write may wait for a client that does not read.
    pub write_stall_timeout: Option<Duration>,
    /// The longest time from a request's head to the end of its answer. Off by default: an
    /// answer of an LLM takes as long as it takes.
    pub total_timeout: Option<Duration>,
    /// How long connections are still accepted after the signal, while `/health` says 503 and
    /// load balancers take note.
    pub drain_delay: Duration,
    /// How long requests under way may take after that.
    pub drain_timeout: Duration,
    /// The largest head of a request, in bytes; a larger one is answered 431. hyper may hold as much of
    /// an answer that waits to be written, and never less than 64 KiB.
    pub max_head_bytes: usize,
    /// The most fields of a head. Up to 100 hyper keeps them on the stack while it reads them.
    pub max_head_fields: usize,
    /// Connections at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// A prefix of every path, which is taken off.
    pub base_path: Option<BasePath>,
    /// Which web pages may call.
    pub origins: Origins,
    /// By which names a listener on loopback may be called, beside its own.
    pub hosts: Hosts,
    /// Whose word on the address of a client is taken.
    pub trusted_proxies: TrustedProxies,
    /// Names the methods in the `Allow` of a preflight's answer, and the paths that a client is
    /// redirected to that wrote one in another way.
    pub endpoints: Option<Arc<EndpointTable>>,
    /// Who is told of what the edge refuses itself.
    pub observer: Option<Arc<dyn RefusalObserver>>,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddr::Tcp(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                3000,
            )))],
            header_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(120),
            body_timeout: Some(Duration::from_secs(60)),
            write_stall_timeout: Some(Duration::from_secs(60)),
            total_timeout: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            max_head_bytes: 128 * 1024,
            max_head_fields: 100,
            max_connections: 4096,
            base_path: None,
            origins: Origins::default(),
            hosts: Hosts::default(),
            trusted_proxies: TrustedProxies::default(),
            endpoints: None,
            observer: None,
        }
    }
}

/// An address to listen on: `127.0.0.1:3000`, `[::]:3000`, `localhost:3000`, `unix:/run/x.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// TCP. `[::]` takes IPv4 as well, if the system has it so.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address to listen on: write IP:PORT (127.0.0.1:3000, [::]:3000), localhost:PORT or unix:PATH"
)]
pub struct InvalidListenAddr(String);

impl FromStr for ListenAddr {
    type Err = InvalidListenAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidListenAddr(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(invalid()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| invalid())?;
            return Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        text.parse().map(Self::Tcp).map_err(|_| invalid())
    }
}

/// A prefix of every path, for clients that are given `https://gateway/prefix` as their server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasePath(String);

/// A text that is no base path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no base path: it must begin with / and hold letters, digits, '-', '_', '.' and single slashes only"
)]
pub struct InvalidBasePath(String);

impl FromStr for BasePath {
    type Err = InvalidBasePath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let sound = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(plain))
        });
        if sound {
            Ok(Self(path.to_owned()))
        } else {
            Err(InvalidBasePath(text.to_owned()))
        }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BasePath {
    /// The path without the prefix; none if it stands outside.
    pub(super) fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(&*self.0)? {
            "" => Some("/"),
            rest => rest.starts_with('/').then_some(rest),
        }
    }

    /// The target without the prefix; what follows is not touched.
    pub(super) fn strip_uri(&self, uri: &Uri) -> Option<Uri> {
        let path = self.strip(uri.path())?;
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        PathAndQuery::try_from(target).ok().map(Uri::from)
    }
}
