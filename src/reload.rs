//! Reloads the settings while the gateway serves.
//!
//! All settings are read as at start, from the same sources. If there is any error, all old
//! settings stay in force. Otherwise the [`RELOADABLE`] settings apply to new requests; requests in
//! flight keep the old ones. Other changed settings are logged, because they need a restart.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::live::{LastReload, LiveSettings, RELOADABLE};
use crate::settings::{DeclaredModels, EffectiveSetting, Environment, Loaded, Settings};
use crate::telemetry::Metrics;

/// Reloads settings.
#[derive(Debug)]
pub struct Reloader {
    config: Option<PathBuf>,
    live: LiveSettings,
    /// The settings in force.
    effective: Vec<EffectiveSetting>,
    declared: Arc<DeclaredModels>,
}

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The variables of changed settings that are in force now, and `[models]` if that has changed.
    pub applied: Vec<&'static str>,
    /// The variables of changed settings that need a restart.
    pub need_restart: Vec<&'static str>,
    /// The names of added keys.
    pub added_keys: BTreeSet<Arc<str>>,
    /// The names of removed keys.
    pub removed_keys: BTreeSet<Arc<str>>,
    /// Reloadable settings that come from environment variables, which do not change while the
    /// process runs.
    pub fixed: Vec<&'static str>,
    /// The warnings of `llamatower check`.
    pub warnings: Vec<String>,
}

impl Reloader {
    /// For a gateway that was started with the settings `loaded` from the file `config`.
    pub fn new(config: Option<PathBuf>, loaded: &Loaded, live: LiveSettings) -> Self {
        Self {
            config,
            live,
            effective: loaded.effective.clone(),
            declared: loaded.settings.declared.clone(),
        }
    }

    /// Applies the reloadable ones of these settings.
    ///
    /// # Errors
    /// The last key would be removed. Then nothing has changed.
    pub fn reload(&mut self, loaded: Loaded) -> Result<Reloaded, String> {
        let old_keys = self.names_of_keys();
        self.live.apply(&loaded.settings)?;
        let new_keys = self.names_of_keys();
        let mut reloaded = Reloaded {
            added_keys: &new_keys - &old_keys,
            removed_keys: &old_keys - &new_keys,
            warnings: loaded.all_warnings().map(ToString::to_string).collect(),
            ..Reloaded::default()
        };
        for (old, new) in self.effective.iter_mut().zip(loaded.effective) {
            let variable = new.setting.variable;
            let is_reloadable = RELOADABLE.contains(&new.setting.key);
            if is_reloadable && new.source == variable {
                reloaded.fixed.push(variable);
            }
            if old.is_same_value(&new) {
                continue;
            }
            match is_reloadable {
                true => {
                    reloaded.applied.push(variable);
                    *old = new;
                }
                false => reloaded.need_restart.push(variable),
            }
        }
        if self.declared != loaded.settings.declared {
            self.declared = loaded.settings.declared;
            reloaded.applied.push("[models]");
        }
        Ok(reloaded)
    }

    /// Reads all settings again, applies the reloadable ones, logs the result and counts it.
    pub async fn reload_and_log(&mut self, metrics: &Metrics) {
        let loaded = self.load().await;
        let reloaded = loaded.and_then(|loaded| self.reload(loaded));
        self.live.last_reload.set(Some(LastReload {
            at: Timestamp::now(),
            is_applied: reloaded.is_ok(),
        }));
        metrics.reloaded(reloaded.is_ok());
        self.live.begin_counters(metrics);
        match reloaded {
            Ok(reloaded) => reloaded.log(),
            Err(error) => tracing::error!(
                error,
                "reloading the settings failed; the old settings stay in force"
            ),
        }
    }

    /// Reads all settings in a thread of their own: a file may be on a disk that does not respond.
    async fn load(&self) -> Result<Loaded, String> {
        let (sender, receiver) = oneshot::channel();
        let config = self.config.clone();
        std::thread::spawn(move || {
            let loaded = Settings::load(config.as_deref(), &Environment::of_process());
            let _ = sender.send(loaded);
        });
        let loaded = receiver.await;
        let loaded = loaded.map_err(|_| "the settings could not be read: internal error")?;
        loaded.map_err(|error| error.to_string())
    }

    fn names_of_keys(&self) -> BTreeSet<Arc<str>> {
        let keys = self.live.keys.get();
        keys.identities().map(|key| key.name.clone()).collect()
    }
}

impl Reloaded {
    fn log(&self) {
        let (added, removed) = (list(&self.added_keys), list(&self.removed_keys));
        match self.applied.is_empty() {
            false => tracing::info!(
                changed = self.applied.join(", "),
                keys_added = added,
                keys_removed = removed,
                "settings reloaded"
            ),
            true if self.fixed.is_empty() => {
                tracing::info!("settings reloaded: no key or limit has changed");
            }
            true => tracing::info!(
                need_restart = self.fixed.join(", "),
                "settings reloaded: no key or limit has changed; environment variables need a restart"
            ),
        }
        if !self.need_restart.is_empty() {
            tracing::warn!(
                settings = self.need_restart.join(", "),
                "these settings have changed and need a restart"
            );
        }
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// A comma-separated list; `None` if there is nothing.
fn list(names: &BTreeSet<Arc<str>>) -> Option<String> {
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
