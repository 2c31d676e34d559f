//! Who is asking: keys, shown in any of the usual ways.
//!
//! A key is looked for in `Authorization` (Bearer, or the password of Basic: LangChain turns the
//! user part of a URL into that) and in `x-api-key` (Anthropic's clients). Only digests are
//! configured and compared, all of them, in constant time. One known key among several credentials is
//! enough (a proxy may have added its own, a client may have to send something); two known ones that
//! differ are refused. Who it is goes into the request's
//! extensions; all credentials are taken out, so that nothing inside ever sees it.
//!
//! ```text
//! call ── credential taken out ── known? ── allowed? ── inner service
//!                                   └ 401     └ 403
//! ```
//!
//! It belongs outside of everything that costs more than a digest, and inside of whatever
//! tells of refusals. Without a [`RouteMatch`](crate::RouteMatch) each request counts as one
//! that needs a key. By default
//!
//! - what changes a server needs an administrator's key, and is off where there is none;
//! - `/` and `/api/version` are open, since clients ask them before anything else;
//! - everything else needs a key as soon as one for users is configured.
//!
//! The keys can be replaced while requests are served ([`Live`](crate::live::Live)).
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
mod keys;
mod layer;
mod service;

#[cfg(test)]
mod tests;

pub use error::{AmbiguousCredential, ManagementRefused, MissingKey, WrongKey};
pub use keys::{Identity, InvalidKeyLine, KeySet, NoKey, Role, generate_key};
pub use layer::{Access, ApiKeyLayer};
pub use service::{ApiKey, ApiKeyFuture};
