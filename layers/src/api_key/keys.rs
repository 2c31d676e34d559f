//! Known keys, stored as digests.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::{Choice, ConstantTimeEq};

use super::key::{Key, KeyDigest, is_key_name};

/// The permissions of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// May run models and read lists.
    User,
    /// May also change the models on servers.
    Admin,
}

/// The owner of the request's key; an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The key's name, for limits, logs and metrics.
    pub name: Arc<str>,
    /// The key's permissions.
    pub role: Role,
}

/// The name of a client that was authenticated by something else than a key, such as the certificate
/// of its TLS connection; an extension of the request. If a known key has this name, the request is
/// treated as one with that key, unless it has a known key itself. Only code that has authenticated the
/// client may insert it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedAs(pub Arc<str>);

/// Known keys, by digest. `Debug` shows the owners and no digest.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    entries: Arc<[Key]>,
    has_user: bool,
    has_admin: bool,
}

/// A line does not describe a key. The error does not show the line, which may contain a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {number}: {reason}; expected name=sha256:<64 hex digits>, the digest of the key and never \
     the key itself (printf %s KEY | sha256sum)"
)]
pub struct InvalidKeyLine {
    number: usize,
    reason: &'static str,
}

impl KeySet {
    /// Parses lines of the form `name=sha256:<64 hex digits>`; the name is optional.
    ///
    /// # Errors
    /// A line does not have this form.
    pub fn from_lines<'a>(
        lines: impl IntoIterator<Item = &'a str>,
        role: Role,
    ) -> Result<Self, InvalidKeyLine> {
        let lines = lines.into_iter().enumerate();
        let entries = lines.map(|(index, line)| entry(index + 1, line.trim(), role));
        Ok(Self::of(entries.collect::<Result<_, _>>()?))
    }

    fn of(entries: Arc<[Key]>) -> Self {
        let has = |role| entries.iter().any(|entry| entry.identity.role == role);
        Self {
            has_user: has(Role::User),
            has_admin: has(Role::Admin),
            entries,
        }
    }

    /// The keys of both sets.
    pub fn merge(self, other: Self) -> Self {
        let entries = self.entries.iter().chain(other.entries.iter());
        Self::of(entries.cloned().collect())
    }

    /// The owner of each key.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.entries.iter().map(|entry| &entry.identity)
    }

    /// Whether there is a key with this role.
    pub fn has(&self, role: Role) -> bool {
        match role {
            Role::User => self.has_user,
            Role::Admin => self.has_admin,
        }
    }

    /// The owner of a key that has not expired. The key is compared with every entry, each in
    /// constant time, so that the duration reveals nothing. A key with both roles has the higher
    /// one.
    pub fn find(&self, key: &str) -> Option<&Identity> {
        let found = self.find_bytes(key.as_bytes());
        found
            .filter(|key| !key.is_expired())
            .map(|key| &key.identity)
    }

    /// The owner with this name that has a valid key. Of several keys with this name, the one with the higher
    /// role counts.
    pub(super) fn named(&self, name: &str) -> Option<&Identity> {
        let named = || {
            let valid = self.entries.iter().filter(|key| !key.is_expired());
            let identities = valid.map(|key| &key.identity);
            identities.filter(|identity| &*identity.name == name)
        };
        let mut admins = named().filter(|identity| identity.role == Role::Admin);
        admins.next().or_else(|| named().next())
    }

    /// Whether all keys with this name have expired.
    pub(super) fn has_only_expired(&self, name: &str) -> bool {
        let mut of_name = self
            .entries
            .iter()
            .filter(|key| &*key.identity.name == name);
        of_name.clone().next().is_some() && of_name.all(Key::is_expired)
    }

    /// Whether a name has a key that has not expired.
    pub fn has_valid_key(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    /// The entry of a key, also if it has expired.
    pub(super) fn find_bytes(&self, key: &[u8]) -> Option<&Key> {
        let digest = KeyDigest::of_bytes(key);
        let mut found = None;
        for entry in self.entries.iter() {
            let is_it: Choice = entry.digest.0.ct_eq(&digest.0);
            if bool::from(is_it)
                && found.is_none_or(|known: &Key| known.identity.role == Role::User)
            {
                found = Some(entry);
            }
        }
        found
    }
}

impl FromIterator<Key> for KeySet {
    fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Self {
        Self::of(keys.into_iter().collect())
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.identities()).finish()
    }
}

fn entry(number: usize, line: &str, role: Role) -> Result<Key, InvalidKeyLine> {
    let invalid = |reason| InvalidKeyLine { number, reason };
    let (name, digest) = match line.split_once("sha256:") {
        Some(("", digest)) => (format!("key-{number}"), digest),
        Some((name, digest)) => match name.strip_suffix('=') {
            Some(name) if is_key_name(name) => (name.to_owned(), digest),
            Some(_) => {
                return Err(invalid(
                    "its name may contain only letters, digits and - _ . @",
                ));
            }
            None => return Err(invalid("there is no = after its name")),
        },
        None => return Err(invalid("there is no sha256: in it")),
    };
    let digest = KeyDigest::from_hex(digest)
        .ok_or_else(|| invalid("its digest does not have 64 hex digits"))?;
    let name = name.into();
    Ok(Key {
        digest,
        identity: Identity { name, role },
        expires: None,
    })
}

/// No key was generated.
#[derive(Debug, thiserror::Error)]
pub enum NoKey {
    /// [`KeySet::from_lines`] would reject a line with this name.
    #[error("the name {0:?} cannot be used: write 1 to 64 of letters, digits and - _ . @")]
    InvalidName(String),
    /// The operating system returned no random bytes.
    #[error("the system returned no random bytes: {0}")]
    NoRandomBytes(#[from] getrandom::Error),
}

/// Generates a key of 256 random bits, and the line that configures it.
///
/// # Errors
/// See [`NoKey`].
pub fn generate_key(name: &str) -> Result<(String, String), NoKey> {
    if !is_key_name(name) {
        return Err(NoKey::InvalidName(name.to_owned()));
    }
    let mut bits = [0; 32];
    getrandom::fill(&mut bits)?;
    let key = format!("llt_{}", BASE64_URL_SAFE_NO_PAD.encode(bits));
    let line = format!("{name}={}", KeyDigest::of(&key));
    Ok((key, line))
}
