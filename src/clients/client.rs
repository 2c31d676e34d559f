//! Identifies the client of a request, for limits and shares.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use llamatower_layers::{ClientAddress, Outcome};

use crate::clients::delegation::{DelegatedUser, key_of_user};
use crate::clients::networks::name_of;

/// The unit for which requests are counted: a key, a user that a key names, or an address if the
/// request has no key. The name of a client's network counts like that of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A key, identified by its name.
    Key(Arc<str>),
    /// A user of a key, identified by both names like `webui/ada@example.org`.
    User(Arc<str>),
    /// An address, possibly reported by a trusted proxy.
    Address(IpAddr),
}

impl Client {
    /// The client of a request; `None` for a request without a key on a unix socket.
    pub fn of(request: &Parts) -> Option<Self> {
        Self::user_of(request).or_else(|| Self::account_of(request))
    }

    /// The same, but the key if the client is one of its users: the limits of a key bound the sum of
    /// its users.
    pub fn account_of(request: &Parts) -> Option<Self> {
        if let Some(name) = name_of(&request.extensions) {
            return Some(Self::Key(name.clone()));
        }
        ClientAddress::of(&request.extensions).map(|address| Self::Address(address.0))
    }

    /// The user that the key of a request has named.
    pub fn user_of(request: &Parts) -> Option<Self> {
        let user = request.extensions.get::<DelegatedUser>()?;
        Some(Self::User(user.0.clone()))
    }

    /// The client of a request that has ended.
    pub fn of_outcome(outcome: &Outcome) -> Option<Self> {
        let named = outcome.identity.clone().map(Self::named);
        named.or_else(|| {
            outcome
                .client_address
                .map(|address| Self::Address(address.0))
        })
    }

    /// The client of a name in logs and usage: a key's name, or a user's.
    pub fn named(name: Arc<str>) -> Self {
        match key_of_user(&name) {
            Some(_) => Self::User(name),
            None => Self::Key(name),
        }
    }

    /// The name of its key; `None` for an address.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Key(name) => Some(name),
            Self::User(name) => key_of_user(name),
            Self::Address(_) => None,
        }
    }

    /// Whether it is one client for certain. Behind one address there can be many, with a router or
    /// another proxy in between.
    pub fn is_identified(&self) -> bool {
        !matches!(self, Self::Address(_))
    }
}

impl fmt::Display for Client {
    /// Unique for each client, because a key's name has neither a colon nor a slash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "key:{name}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Address(address) => write!(f, "address:{address}"),
        }
    }
}
