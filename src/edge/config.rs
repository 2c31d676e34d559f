//! Configuration of an edge.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::EndpointTable;
use llamatower_layers::live::Live;

use super::address::ListenAddr;
use super::base_path::BasePath;
use super::gauges::Gauges;
use super::host::Hosts;
use super::origin::Origins;
use super::refusal::{Audience, RefusalObserver};
use super::trusted_proxies::TrustedProxies;
use crate::tls::Certificates;

/// The configuration of an [`Edge`](super::Edge).
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Addresses to listen on. With port 0 the system chooses a port.
    pub listen: Vec<ListenAddr>,
    /// Time limit for a request's head, from its first byte (on a new connection: from accepting
    /// it) to its last.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests. Choose it longer than clients keep idle
    /// connections: the client then closes first, and no request is sent on a connection that the
    /// edge is closing.
    pub keep_alive_timeout: Duration,
    /// Longest pause between two pieces of a request's body.
    pub body_timeout: Option<Duration>,
    /// Longest time that a write may wait because the client does not read.
    pub write_stall_timeout: Option<Duration>,
    /// Longest time from a request's head to the end of its response. Off by default, because a
    /// response of an LLM may take very long.
    pub total_timeout: Option<Duration>,
    /// How long connections are still accepted after the shutdown signal. `/health` returns 503
    /// meanwhile, so that load balancers stop sending requests.
    pub drain_delay: Duration,
    /// How long the requests in flight may continue after that.
    pub drain_timeout: Duration,
    /// Largest head of a request, in bytes; a larger one is answered with 431. hyper may also
    /// buffer this much of a response that waits to be written, and at least 64 KiB.
    pub max_head_bytes: usize,
    /// Largest number of header fields. Up to 100, hyper keeps them on the stack while it parses
    /// them.
    pub max_head_fields: usize,
    /// Largest number of open connections; a further one is answered with 503 and closed.
    pub max_connections: usize,
    /// A prefix of every path; the edge removes it.
    pub base_path: Option<BasePath>,
    /// The web pages that may call, by their `Origin`.
    pub origins: Origins,
    /// Whom it serves, for the texts of its refusals.
    pub audience: Audience,
    /// Additional names that a `Host` header may have on a loopback listener.
    pub hosts: Live<Hosts>,
    /// The service trusts requests from this machine, so that the rule for `Host` applies to them on
    /// every listener: a web page whose name was made to point here could send them.
    pub trusts_local_peers: bool,
    /// Proxies whose `Forwarded` and `X-Forwarded-For` are believed.
    pub trusted_proxies: TrustedProxies,
    /// Each connection must begin with a header of the PROXY protocol (version 1 or 2), and come from one
    /// of these proxies; others are closed.
    pub requires_proxy_protocol: bool,
    /// The known endpoints: for the `Allow` header of preflight responses, and for redirects to the
    /// canonical path.
    pub endpoints: Option<Arc<EndpointTable>>,
    /// Receives the refusals of the edge.
    pub observer: Option<Arc<dyn RefusalObserver>>,
    /// The edge whose drain `/health` tells too, besides its own.
    pub health_of: Option<Arc<Gauges>>,
    /// TLS, if any address speaks it.
    pub tls: Option<EdgeTls>,
    /// Whether a connection without TLS may be HTTP/2, if the client begins with its preface.
    pub plain_http2: bool,
}

/// TLS of an [`Edge`](super::Edge).
#[derive(Clone, Debug)]
pub struct EdgeTls {
    /// The addresses, of those to listen on, that speak TLS. The others stay plain.
    pub addresses: Vec<ListenAddr>,
    /// The certificate.
    pub certificates: Certificates,
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
            audience: Audience::default(),
            hosts: Live::default(),
            trusts_local_peers: false,
            trusted_proxies: TrustedProxies::default(),
            requires_proxy_protocol: false,
            endpoints: None,
            observer: None,
            health_of: None,
            tls: None,
            plain_http2: false,
        }
    }
}
