//! Tells of keys that expire while the gateway serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::settings::KeysFile;

/// How often the keys are looked through.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What has been told: the keys that have expired, or else expire soon. At the start and at a reload
/// the warnings of the settings tell it.
#[derive(Debug)]
pub(super) struct ToldExpiry(BTreeMap<Arc<str>, bool>);

impl ToldExpiry {
    /// The state of these keys has been told.
    pub(super) fn new(file: &KeysFile) -> Self {
        Self(states(file, Timestamp::now()))
    }

    /// Logs what has changed.
    pub(super) fn tell(&mut self, file: &KeysFile) {
        let now = Timestamp::now();
        let states = states(file, now);
        let news = states
            .iter()
            .filter(|(name, is)| self.0.get(*name) != Some(is));
        for (name, is_expired) in news {
            let at = file.keys.get(name).and_then(|entry| entry.expires);
            let (identity, expires_at) = (&**name, at.map(tracing::field::display));
            match is_expired {
                true => tracing::warn!(identity, expires_at, "an API key has expired"),
                false => tracing::warn!(identity, expires_at, "an API key expires soon"),
            }
        }
        self.0 = states;
    }
}

/// For each key that expires soon or has expired, whether it has.
fn states(file: &KeysFile, now: Timestamp) -> BTreeMap<Arc<str>, bool> {
    let expiring = file.expiring(now).into_iter();
    expiring.map(|(name, at)| (name, at <= now)).collect()
}
