//! The state of the gateway, and all of it together.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Activity, Backend, CloudState, DigestsDiffer, KeyRow, ModelRow, ModelsSync, QueueRow,
    SharingState, StateFile, WaiterRow,
};
use crate::live::LastReload;
use crate::settings::KeysFile;

/// The document `/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Status {
    /// The gateway itself.
    pub gateway: Gateway,
    /// The backends, in the order of the configuration.
    pub backends: Vec<Backend>,
    /// The queue of each model with waiting or running requests.
    pub queue: Vec<QueueRow>,
    /// The names that stand for different models.
    pub digests_differ: Vec<DigestsDiffer>,
    /// The cloud service.
    pub cloud: CloudState,
    /// The sync of the declared models.
    pub models_sync: ModelsSync,
    /// Whether usage, token windows and cordons are kept over a restart.
    pub state: StateFile,
    /// What this gateway shares with others.
    pub sharing: SharingState,
}

/// The gateway itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Gateway {
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: String,
    /// Requests in flight, also those that wait.
    pub in_flight: usize,
    /// Open connections of clients.
    pub connections: usize,
    /// Whether it accepts no new requests, because it is about to end.
    pub is_draining: bool,
    /// The address of a trace, with `{trace_id}` in place of its id; null if none is set.
    pub trace_url: Option<String>,
    /// The last reload of the settings; null if there was none.
    pub last_reload: Option<Reload>,
    /// The keys of the keys file that have expired or expire within 7 days, by name.
    pub expiring_keys: Vec<ExpiringKey>,
    /// Why the log cannot be written; null if the last line could be.
    pub log_problem: Option<String>,
    /// The gateway's certificate; null without TLS.
    pub tls: Option<Certificate>,
}

/// A key that has expired, or expires soon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct ExpiringKey {
    /// Its name.
    pub name: String,
    /// When it expires.
    pub expires_at: String,
    /// Whether that was in the past, so that it is refused.
    pub is_expired: bool,
}

impl ExpiringKey {
    /// Those of a keys file, by name.
    pub fn all(file: &KeysFile, now: Timestamp) -> Vec<Self> {
        let expiring = file.expiring(now).into_iter();
        let rows = expiring.map(|(name, at)| Self {
            name: name.to_string(),
            expires_at: at.to_string(),
            is_expired: at <= now,
        });
        rows.collect()
    }
}

/// The certificate with which new connections are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Certificate {
    /// When it expires.
    pub expires_at: String,
    /// When its files have changed; null if they are those of the start.
    pub changed_at: Option<String>,
    /// Why the changed files cannot be used; the certificate before stays in force. Null if there is no
    /// error.
    pub error: Option<String>,
}

/// A reload of the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Reload {
    /// When it took place.
    pub at: String,
    /// `signal` for SIGHUP, `file` if a file had changed.
    pub cause: String,
    /// Whether the settings were applied. If not, there was an error, and the old ones stay in force.
    pub is_applied: bool,
    /// The errors, one per line, as `llamatower check` says them; null if there were none.
    pub error: Option<String>,
    /// The variables of changed settings that are in force now.
    pub changed: Vec<String>,
    /// The variables of changed settings that need a restart.
    pub need_restart: Vec<String>,
}

/// The document `/status/overview`: everything that the status page shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct Overview {
    /// As in `/status`.
    #[serde(flatten)]
    pub status: Status,
    /// The requests that wait, the longest wait first; at most 100.
    pub waiting: Vec<WaiterRow>,
    /// As in `/status/models`.
    pub models: Vec<ModelRow>,
    /// The configured keys, by name.
    pub keys: Vec<KeyRow>,
    /// As in `/status/requests`.
    #[serde(flatten)]
    pub activity: Activity,
}

impl From<&LastReload> for Reload {
    fn from(last: &LastReload) -> Self {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Self {
            at: last.at.to_string(),
            cause: last.cause.to_owned(),
            is_applied: last.is_applied(),
            error: last.error.clone(),
            changed: owned(&last.changed),
            need_restart: owned(&last.need_restart),
        }
    }
}
