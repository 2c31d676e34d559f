//! The proxies whose headers are believed.

use std::net::IpAddr;

use ipnet::IpNet;

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

    /// Whether no peer is trusted.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether a peer is trusted; `None` is a peer on a unix socket.
    pub(super) fn trust(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(ip) => self.networks.iter().any(|network| network.contains(&ip)),
            None => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
