//! Authentication by API keys, in the usual header fields.
//!
//! Keys are accepted in `Authorization` (Bearer, or the password of Basic, which LangChain makes
//! from a URL's user part) and in `x-api-key` (Anthropic's clients). Only digests are configured
//! and compared, all of them, in constant time. One known key among several credentials is enough,
//! because a proxy may add its own credential, or a client library may require one. Two different
//! known keys are refused. The key's owner is put into the request's extensions; all credentials
//! are removed, so that no inner service sees them.
//!
//! ```text
//! call ── credential taken out ── known? ── allowed? ── inner service
//!                                   └ 401     └ 403
//! ```
//!
//! Place it outside of everything that costs more than a digest, and inside of the layer that turns
//! errors into responses. Without a [`RouteMatch`](crate::RouteMatch), each request needs a key. By
//! default
//!
//! - requests that change a server need an administrator's key, and are off if there is none, and so
//!   do unsafe methods on paths that are not in the table, which the server may know;
//! - `/` and `/api/version` are open, because clients request them first;
//! - all other requests need a key if any user key is configured.
//!
//! A client that was authenticated in another way, such as by a certificate, may have the identity of
//! a key without sending it ([`AuthenticatedAs`]).
//!
//! A key can expire ([`Key::with_expiry`]). An address that sends wrong keys can be told to slow down
//! ([`ApiKeyLayer::with_failed_key_limit`]); a request with a valid key never is.
//!
//! Keys can be replaced while requests are served ([`Live`](crate::live::Live)).
//!
//! ```
//! use llamatower_layers::api_key::{ApiKeyLayer, KeySet, Role, generate_key};
//!
//! let (key, line) = generate_key("ada")?;
//! let keys = KeySet::from_lines([line.as_str()], Role::User)?;
//! assert_eq!(keys.find(&key).map(|found| &*found.name), Some("ada"));
//!
//! let default = ApiKeyLayer::new(keys.clone());
//! let customised = ApiKeyLayer::new(keys).with_management_hint("ask the operators for a key");
//! # let _ = (default, customised);
//! # Ok::<_, llamatower_layers::BoxError>(())
//! ```

mod credential;
mod error;
mod failures;
mod key;
mod keys;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use error::{
    AmbiguousCredential, ExpiredKey, ManagementRefused, MissingKey, TooManyFailedKeys, WrongKey,
};
pub use failures::FailedKey;
pub use key::{InvalidDigest, InvalidName, Key, KeyDigest, is_key_name};
pub use keys::{AuthenticatedAs, Identity, InvalidKeyLine, KeySet, NoKey, Role, generate_key};
pub use layer::{Access, ApiKeyLayer};
pub use service::{ApiKeyFuture, ApiKeyService};
