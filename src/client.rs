//! Identifies the client of a request, for limits and shares.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use llamatower_layers::api_key::Identity;
use llamatower_layers::{ClientAddress, Outcome};

/// The unit for which requests are counted: a key, or an address if the request has no key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A key, identified by its name.
    Key(Arc<str>),
    /// An address, possibly reported by a trusted proxy.
    Address(IpAddr),
}

impl Client {
    /// The client of a request; `None` for a request without a key on a unix socket.
    pub fn of(request: &Parts) -> Option<Self> {
        if let Some(identity) = request.extensions.get::<Identity>() {
            return Some(Self::Key(identity.name.clone()));
        }
        ClientAddress::of(&request.extensions).map(|address| Self::Address(address.0))
    }

    /// The client of a request that has ended.
    pub fn of_outcome(outcome: &Outcome) -> Option<Self> {
        let key = outcome.identity.clone().map(Self::Key);
        key.or_else(|| {
            outcome
                .client_address
                .map(|address| Self::Address(address.0))
        })
    }

    /// Whether it is one client for certain. Behind one address there can be many, with a router or
    /// another proxy in between.
    pub fn is_identified(&self) -> bool {
        matches!(self, Self::Key(_))
    }
}

impl fmt::Display for Client {
    /// Unique for each client, because a key's name has no colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "key:{name}"),
            Self::Address(address) => write!(f, "address:{address}"),
        }
    }
}
