//! `POST /backends/NAME/cordon` and `uncordon`: operators take a backend out of the choice.

use std::net::IpAddr;

use http::Method;
use http::request::Parts;
use llamatower_layers::ClientAddress;
use llamatower_layers::api_key::Access;
use serde_json::{Value, json};

use crate::telemetry::FleetView;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verb<'a> {
    name: &'a str,
    is_cordoned: bool,
}

impl<'a> Verb<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/backends/")?;
        // The name of a server below a path has slashes.
        let (name, verb) = rest.rsplit_once('/')?;
        let is_cordoned = match verb {
            "cordon" => true,
            "uncordon" => false,
            _ => return None,
        };
        Some(Self { name, is_cordoned })
    }

    /// Does it; `None` if there is no such backend.
    pub(super) fn apply(self, fleet: &dyn FleetView) -> Option<Value> {
        let is_known = fleet.set_cordoned(self.name, self.is_cordoned);
        let status = fleet.status();
        let backend = status.iter().find(|row| *row.name == *self.name)?;
        is_known.then(|| {
            json!({
                "name": *backend.name,
                "is_cordoned": backend.is_cordoned,
                "in_flight": backend.in_flight,
            })
        })
    }
}

/// Whoever is on this machine may do it; others need an administrator's key. Pages need none.
pub(super) fn access(request: &Parts) -> Access {
    let is_local = |ip: IpAddr| ip.to_canonical().is_loopback();
    let client = ClientAddress::of(&request.extensions);
    match client {
        _ if request.method == Method::GET || request.method == Method::HEAD => Access::Open,
        // A unix socket has no address.
        None => Access::Open,
        Some(address) if is_local(address.0) => Access::Open,
        Some(_) => Access::Admin,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn the_name_is_what_stands_between() {
        let name = |path| Verb::of(path).map(|verb| (verb.name, verb.is_cordoned));
        assert_eq!(
            name("/backends/gpu-1:11434/cordon"),
            Some(("gpu-1:11434", true))
        );
        assert_eq!(
            name("/backends/gpu.example:443/ollama/uncordon"),
            Some(("gpu.example:443/ollama", false))
        );
        for other in ["/backends/gpu-1", "/backends/gpu-1/delete", "/status"] {
            assert_eq!(name(other), None);
        }
    }

    #[test]
    fn changes_from_other_machines_need_an_administrators_key() {
        let access_of = |method: Method, address: Option<&str>| {
            let mut parts = Request::new(()).into_parts().0;
            parts.method = method;
            if let Some(address) = address {
                ClientAddress(address.parse().unwrap()).put_into(&mut parts.extensions);
            }
            access(&parts)
        };
        assert_eq!(access_of(Method::POST, Some("10.0.0.7")), Access::Admin);
        assert_eq!(access_of(Method::GET, Some("10.0.0.7")), Access::Open);
        for local in [
            None,
            Some("127.0.0.1"),
            Some("::1"),
            Some("::ffff:127.0.0.1"),
        ] {
            assert_eq!(access_of(Method::POST, local), Access::Open);
        }
    }
}
