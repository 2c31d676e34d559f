//! The configured keys, and what is used of their token budgets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use llamatower_layers::api_key::Role;
use serde::{Deserialize, Serialize};

use crate::clients::Client;
use crate::live::LiveSettings;

/// A configured key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct KeyRow {
    /// Its name.
    pub name: String,
    /// Whether it may manage models.
    pub is_admin: bool,
    /// When it expires; null if it does not.
    pub expires_at: Option<String>,
    /// Its token budgets.
    pub budgets: Vec<KeyBudget>,
    /// Its requests that run and wait, if the number of those that run at a time is limited; null if it
    /// is not, or if there are none.
    pub concurrency: Option<KeyConcurrency>,
}

/// The requests of a key with a limit on those that run at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct KeyConcurrency {
    /// The requests that run.
    pub running: usize,
    /// The requests that wait until another one ends.
    pub waiting: usize,
    /// The maximum number of those that run, at this gateway.
    pub limit: usize,
}

/// A token budget of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct KeyBudget {
    /// `minute`, `day` or `month`.
    pub window: String,
    /// Used tokens in the current window; those of requests under way are estimated.
    pub used: u64,
    /// Its size in tokens.
    pub limit: u64,
}

impl KeyRow {
    /// The rows of all keys, by name.
    pub fn all(live: &LiveSettings) -> Vec<Self> {
        let keys = live.keys.get();
        // A key that is being replaced has two digests under one name.
        let mut roles: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for key in keys.identities() {
            *roles.entry(key.name.clone()).or_default() |= key.role == Role::Admin;
        }
        let file = live.keys_file.get();
        let requests: HashMap<_, _> = live.concurrency.snapshot().into_iter().collect();
        let rows = roles.into_iter().map(|(name, is_admin)| {
            let uses = live.tokens.uses(std::iter::once(name.clone())).into_iter();
            let of = requests.get(&Client::Key(name.clone()));
            Self {
                concurrency: of.map(|of| KeyConcurrency {
                    running: of.running,
                    waiting: of.waiting,
                    limit: of.limit,
                }),
                name: name.to_string(),
                is_admin,
                expires_at: (file.keys.get(&name))
                    .and_then(|entry| entry.expires)
                    .map(|at| at.to_string()),
                budgets: uses
                    .map(|budget| KeyBudget {
                        window: budget.window.name().to_owned(),
                        used: budget.used,
                        limit: budget.limit,
                    })
                    .collect(),
            }
        });
        rows.collect()
    }
}
