//! Resolves the addresses of host names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::Dns;
use crate::ollama::upstream::Address;

/// Addresses with a long TTL are resolved again after this time, because a query costs almost
/// nothing.
const MAX_TTL: Duration = Duration::from_secs(60);

/// Resolves the addresses of hosts.
pub(crate) struct Resolver {
    resolver: Option<TokioResolver>,
    min_ttl: Duration,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Sorted, never empty.
    pub(crate) ips: Vec<IpAddr>,
    /// The time after which to resolve the name again.
    pub(crate) resolve_again_in: Duration,
}

/// Whether a host is a name that may have several servers. `localhost` is this machine on any
/// address family, not one server for each address (RFC 6761 6.3).
pub(super) fn needs_resolution(address: &Address) -> bool {
    let host = address.host().trim_end_matches('.');
    let is_loopback =
        host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    address.ip().is_none() && !is_loopback
}

impl Resolver {
    /// A resolver that uses the servers of `dns`, or the system's DNS servers. Without any server,
    /// the operating system resolves names when connections are opened.
    pub(crate) fn new(dns: &Dns) -> Self {
        let built = builder(&dns.servers).and_then(|mut builder| {
            let options = builder.options_mut();
            // The caller schedules the queries and needs fresh answers.
            options.cache_size = 0;
            // A server with addresses of both families is one server.
            options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            builder.build()
        });
        if let Err(error) = &built {
            tracing::warn!(%error, "names of backends are resolved by the operating system alone");
        }
        Self {
            resolver: built.ok(),
            min_ttl: dns.min_ttl,
        }
    }

    /// Whether there is a DNS server to query.
    pub(super) fn can_ask(&self) -> bool {
        self.resolver.is_some()
    }

    /// The current addresses of a host.
    ///
    /// # Errors
    /// The name has no addresses, or no DNS server answers.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Addresses, NotResolved> {
        let no_server = || NotResolved("no DNS server is known".to_owned());
        let found = self
            .resolver
            .as_ref()
            .ok_or_else(no_server)?
            .lookup_ip(host);
        let found = found
            .await
            .map_err(|error| NotResolved(error.to_string()))?;
        self.sorted(found.iter().collect(), found.valid_until())
    }

    fn sorted(&self, mut ips: Vec<IpAddr>, until: Instant) -> Result<Addresses, NotResolved> {
        ips.sort_unstable();
        ips.dedup();
        if ips.is_empty() {
            return Err(NotResolved("the answer has no address".to_owned()));
        }
        let ttl = until.saturating_duration_since(Instant::now());
        Ok(Addresses {
            ips,
            resolve_again_in: ttl.min(MAX_TTL).max(self.min_ttl),
        })
    }

    /// The time after which to resolve a name again after a failure.
    pub(crate) fn retry_in(&self) -> Duration {
        self.min_ttl.max(Duration::from_secs(1))
    }
}

type Builder = ResolverBuilder<TokioRuntimeProvider>;

fn builder(servers: &[SocketAddr]) -> Result<Builder, hickory_resolver::net::NetError> {
    if servers.is_empty() {
        return TokioResolver::builder_tokio();
    }
    let servers = servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        NameServerConfig::new(server.ip(), true, connections)
    });
    let config = ResolverConfig::from_name_servers(servers.collect());
    Ok(TokioResolver::builder_with_config(
        config,
        TokioRuntimeProvider::default(),
    ))
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("min_ttl", &self.min_ttl)
            .finish_non_exhaustive()
    }
}

/// A name has no addresses, or no DNS server answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotResolved(String);

impl NotResolved {
    pub(super) fn late(after: Duration) -> Self {
        Self(format!("no answer within {after:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_other_machines_are_resolved() {
        let resolved = |host: &str| needs_resolution(&host.parse().expect("an address"));
        assert!(resolved("ollama.model-hosting:11434"));
        assert!(resolved("gpu-1"));
        for local in [
            "localhost",
            "LocalHost.:1",
            "a.localhost",
            "10.0.0.7",
            "[::1]:1",
        ] {
            assert!(!resolved(local), "{local}");
        }
    }

    #[test]
    fn addresses_are_resolved_again_after_their_ttl_within_limits() {
        let floor = Duration::from_secs(5);
        let resolver = Resolver::new(&Dns {
            servers: vec![([127, 0, 0, 1], 53).into()],
            min_ttl: floor,
        });
        let resolve_again_in = |ttl| {
            let ip = IpAddr::from([10, 0, 0, 7]);
            let sorted = resolver.sorted(vec![ip], Instant::now() + Duration::from_secs(ttl));
            sorted.expect("an address").resolve_again_in
        };
        for short in [0, 1, 5] {
            assert_eq!(resolve_again_in(short), floor);
        }
        let thirty = resolve_again_in(30);
        assert!(thirty > floor && thirty <= Duration::from_secs(30));
        assert_eq!(resolve_again_in(86_400), MAX_TTL);
    }
}
