//! Who is asking, as far as limits and shares go.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use llamatower_layers::ClientAddress;
use llamatower_layers::api_key::Identity;

/// Whose requests are counted together: those of a key, or of an address where none is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A key, by its name.
    Key(Arc<str>),
    /// An address, which trusted proxies may have named.
    Address(IpAddr),
}

impl Client {
    /// Whose request this is. Those that come by a unix socket without a key are nobody's.
    pub fn of(request: &Parts) -> Option<Self> {
        if let Some(identity) = request.extensions.get::<Identity>() {
            return Some(Self::Key(identity.name.clone()));
        }
        ClientAddress::of(&request.extensions).map(|address| Self::Address(address.0))
    }
}

impl fmt::Display for Client {
    /// Two clients never look the same: a key's name has no colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "key:{name}"),
            Self::Address(address) => write!(f, "address:{address}"),
        }
    }
}
