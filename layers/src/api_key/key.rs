//! One key, known by its digest.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};

use super::{Identity, Role};

/// The SHA-256 digest of a key; as text `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub(super) [u8; 32]);

/// A text is not a digest. The error does not show the text, which may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not like sha256:<64 hex digits>, the digest of a key")]
pub struct InvalidDigest;

/// A name cannot be that of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key's name has 1 to 64 letters, digits and - _ . @")]
pub struct InvalidName;

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        Self::of_bytes(key.as_bytes())
    }

    pub(super) fn of_bytes(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let digest = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        digest.try_into().ok().map(Self)
    }
}

impl FromStr for KeyDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix("sha256:");
        hex.and_then(Self::from_hex).ok_or(InvalidDigest)
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode_display(&self.0))
    }
}

/// Shows no digit, because logs do not need them.
impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

/// A key for a [`KeySet`](super::KeySet). `Debug` shows its owner.
///
/// A name may have several keys, so that a client can change from one to the next.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub(super) digest: KeyDigest,
    pub(super) identity: Identity,
    pub(super) expires: Option<SystemTime>,
}

impl Key {
    /// A key that does not expire.
    ///
    /// # Errors
    /// The name is none for a key.
    pub fn new(
        name: impl Into<Arc<str>>,
        digest: KeyDigest,
        role: Role,
    ) -> Result<Self, InvalidName> {
        let name = name.into();
        match is_key_name(&name) {
            true => Ok(Self {
                digest,
                identity: Identity { name, role },
                expires: None,
            }),
            false => Err(InvalidName),
        }
    }

    /// From this time on the key is refused with [`ExpiredKey`](super::ExpiredKey).
    pub fn with_expiry(mut self, expires: Option<SystemTime>) -> Self {
        self.expires = expires;
        self
    }

    pub(super) fn is_expired(&self) -> bool {
        // Most keys do not expire, and need no clock.
        self.expires.is_some_and(|at| at <= SystemTime::now())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// Whether a key may have this name: 1 to 64 letters, digits and `-`, `_`, `.`, `@`.
pub fn is_key_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}
