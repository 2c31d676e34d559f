//! Names for clients by their network: a client without a key is the name of the longest network that
//! contains its address.
//!
//! By default a name is for limits, models, priorities and logs alone, and does not replace a key: an
//! address is not proof of who somebody is, because each machine of the network has the name, and each
//! page and program on these machines. An operator can decide that it does.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Extensions, Request};
use ipnet::IpNet;
use llamatower_layers::api_key::{Identity, Role};
use llamatower_layers::live::Live;
use llamatower_layers::{ClientAddress, Failure, Record};

use crate::clients::request_filter::RequestFilter;
use crate::settings::Settings;

/// The name of a client's network; an extension of a request without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkName(pub Arc<str>);

/// The name that limits and rules apply to: that of the request's key, or else that of its network.
pub fn name_of(request: &Extensions) -> Option<&Arc<str>> {
    let key = request.get::<Identity>().map(|identity| &identity.name);
    key.or_else(|| request.get::<NetworkName>().map(|network| &network.0))
}

/// Names the clients of networks. Clones share the rules, and they can be changed while the gateway
/// serves.
#[derive(Clone, Debug, Default)]
pub struct Networks(Live<Rules>);

#[derive(Debug, Default)]
struct Rules {
    /// The longest prefixes first.
    names: Box<[(IpNet, Arc<str>)]>,
    replace_keys: bool,
}

impl Networks {
    /// The rules of these settings.
    pub fn new(settings: &Settings) -> Self {
        let networks = Self::default();
        networks.set(settings);
        networks
    }

    /// Replaces the rules by those of other settings.
    pub fn set(&self, settings: &Settings) {
        let keys = &settings.keys;
        self.0
            .set(Rules::new(&keys.networks, keys.networks_replace_keys));
    }

    /// The configured names.
    pub fn names(&self) -> Vec<Arc<str>> {
        let rules = self.0.get();
        rules.names.iter().map(|(_, name)| name.clone()).collect()
    }

    /// Whether the client of a request needs no key because of its network.
    pub fn replaces_key(&self, request: &Extensions) -> bool {
        let rules = self.0.get();
        rules.replace_keys && rules.name_of(request).is_some()
    }
}

impl Rules {
    fn new(names: &[(IpNet, Arc<str>)], replace_keys: bool) -> Self {
        let mut names = names.to_vec();
        names.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        Self {
            names: names.into(),
            replace_keys,
        }
    }

    fn name_of(&self, request: &Extensions) -> Option<&Arc<str>> {
        self.name_at(ClientAddress::of(request)?.0)
    }

    fn name_at(&self, address: IpAddr) -> Option<&Arc<str>> {
        let address = address.to_canonical();
        let mut networks = self.names.iter();
        let found = networks.find(|(network, _)| network.contains(&address));
        found.map(|(_, name)| name)
    }
}

impl RequestFilter for Networks {
    /// Never refuses a request.
    fn filter<B>(&self, request: &mut Request<B>) -> Result<(), Failure> {
        let rules = self.0.get();
        if rules.names.is_empty() {
            return Ok(());
        }
        let name = match request.extensions().get::<Identity>() {
            None => rules.name_of(request.extensions()).cloned(),
            Some(_) => None,
        };
        let Some(name) = name else {
            return Ok(());
        };
        Record::update_in(request.extensions(), |outcome| {
            outcome.identity = Some(name.clone());
        });
        let extensions = request.extensions_mut();
        match rules.replace_keys {
            true => {
                let role = Role::User;
                extensions.insert(Identity { name, role });
            }
            false => {
                extensions.insert(NetworkName(name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rules(names: &[(&str, &str)]) -> Rules {
        let names = names
            .iter()
            .map(|(network, name)| (network.parse().unwrap(), (*name).into()));
        Rules::new(&names.collect::<Vec<_>>(), false)
    }

    #[test]
    fn the_longest_network_names_a_client() {
        let rules = rules(&[
            ("10.0.0.0/8", "house"),
            ("10.1.0.0/16", "lab"),
            ("10.1.2.3/32", "buildbot"),
            ("fd00::/8", "house"),
        ]);
        for (address, name) in [
            ("10.1.2.3", Some("buildbot")),
            ("10.1.2.4", Some("lab")),
            ("10.2.0.1", Some("house")),
            ("::ffff:10.1.0.1", Some("lab")),
            ("fd12::1", Some("house")),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
        ] {
            let found = rules.name_at(address.parse().unwrap());
            assert_eq!(found.map(|name| &**name), name, "{address}");
        }
    }

    #[test]
    fn a_request_with_a_key_is_that_of_the_key() {
        let networks = Networks(Live::new(rules(&[("10.0.0.0/8", "house")])));
        let of = |key: Option<&str>| {
            let mut request = Request::new(());
            ClientAddress([10, 0, 0, 7].into()).put_into(request.extensions_mut());
            if let Some(name) = key {
                let (name, role) = (name.into(), Role::User);
                request.extensions_mut().insert(Identity { name, role });
            }
            networks.filter(&mut request).unwrap();
            name_of(request.extensions()).map(ToString::to_string)
        };
        assert_eq!(of(None).as_deref(), Some("house"));
        assert_eq!(of(Some("ada")).as_deref(), Some("ada"));
    }
}
