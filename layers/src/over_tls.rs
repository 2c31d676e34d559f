//! Whether a request arrived over TLS.

use http::Extensions;

use crate::shared::Shared;

/// The request arrived over TLS; travels with the request ([`OverTls::is_in`]).
///
/// The server that accepts the connection sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverTls;

impl OverTls {
    /// Whether the request with these extensions arrived over TLS.
    pub fn is_in(extensions: &Extensions) -> bool {
        Shared::of(extensions).is_some_and(|shared| shared.over_tls)
    }

    /// Notes this of the request with these extensions.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).over_tls = true;
    }
}
