//! The number of gateways by DNS: the addresses of the headless Service of the gateway's own pods.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::sleep;

use super::Gateways;
use crate::ollama::fleet::{Dns, Resolver};

/// A name whose addresses are those of all gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersName(String);

impl FromStr for PeersName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NO_NAME: &str = "it is not the name of a Service or a host, like backend-peers";
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_name = text.parse::<IpAddr>().is_err() && text.chars().all(is_part);
        match is_name {
            true => Ok(Self(text.to_owned())),
            false if text.contains(':') => Err("it is a name without a port, like backend-peers"),
            false => Err(NO_NAME),
        }
    }
}

impl fmt::Display for PeersName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts the gateways from time to time.
#[derive(Debug)]
pub struct Peers {
    host: String,
    resolver: Resolver,
    gateways: Gateways,
}

impl Peers {
    /// The addresses of `host` are those of the gateways, by these DNS servers or those of the system.
    pub fn new(
        PeersName(host): &PeersName,
        servers: Vec<SocketAddr>,
        min_ttl: Duration,
        gateways: Gateways,
    ) -> Self {
        Self {
            host: host.clone(),
            resolver: Resolver::new(&Dns { servers, min_ttl }),
            gateways,
        }
    }

    /// Counts until it is dropped. While DNS does not answer, the last number stays.
    pub async fn run(self) {
        let mut has_failed = false;
        loop {
            let next = match self.resolver.addresses(&self.host).await {
                Ok(found) => {
                    let number = u32::try_from(found.ips.len()).unwrap_or(u32::MAX);
                    let number = NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
                    if std::mem::take(&mut has_failed) {
                        tracing::info!(
                            peers = self.host,
                            gateways = number,
                            "the gateways are known again"
                        );
                    }
                    self.gateways.set(number);
                    found.resolve_again_in
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        let gateways = self.gateways.number();
                        tracing::warn!(
                            peers = self.host,
                            %error,
                            gateways,
                            "LLAMATOWER_PEERS cannot be resolved; the number of gateways stays"
                        );
                    }
                    self.resolver.retry_in()
                }
            };
            sleep(next).await;
        }
    }
}
