//! Where a request came from.

use std::net::IpAddr;

use http::Extensions;

use crate::shared::Shared;

/// The address of the client that sent a request, as far as the server knows it; travels with the
/// request ([`ClientAddress::of`]).
///
/// The server that accepts the connection sets it. Behind trusted proxies it is the address that they
/// report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The address of the client whose request has these extensions.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        Shared::of(extensions)?.client.map(Self)
    }

    /// Notes this of the request with these extensions.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).client = Some(self.0);
    }
}
