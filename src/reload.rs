//! Reloads the settings while the gateway serves.
//!
//! All settings are read as at start, from the same sources. If there is any error, all old
//! settings stay in force. Otherwise the [`RELOADABLE`] settings apply to new requests; requests in
//! flight keep the old ones. Other changed settings are logged, because they need a restart.

use std::path::PathBuf;

use crate::live::{LiveSettings, RELOADABLE};
use crate::settings::{EffectiveSetting, Environment, Loaded, Settings};

/// Reloads settings.
#[derive(Debug)]
pub struct Reloader {
    config: Option<PathBuf>,
    live: LiveSettings,
    /// The settings in force.
    effective: Vec<EffectiveSetting>,
}

/// Result of a reload: the variables of changed settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Changes that are in force now.
    pub applied: Vec<&'static str>,
    /// Changes that need a restart.
    pub need_restart: Vec<&'static str>,
}

impl Reloader {
    /// For a gateway that was started with the settings `loaded` from the file `config`.
    pub fn new(config: Option<PathBuf>, loaded: &Loaded, live: LiveSettings) -> Self {
        Self {
            config,
            live,
            effective: loaded.effective.clone(),
        }
    }

    /// Reads all settings again, and applies the reloadable ones.
    ///
    /// # Errors
    /// The errors, with the same text as in `llamatower check`. In that case nothing has changed.
    pub fn reload(&mut self, environment: &Environment) -> Result<Reloaded, String> {
        let loaded = Settings::load(self.config.as_deref(), environment);
        let loaded = loaded.map_err(|error| error.to_string())?;
        self.live.apply(&loaded.settings)?;
        let mut reloaded = Reloaded::default();
        for (old, new) in self.effective.iter_mut().zip(loaded.effective) {
            if old.is_same_value(&new) {
                continue;
            }
            let variable = new.setting.variable;
            match RELOADABLE.contains(&new.setting.key) {
                true => {
                    reloaded.applied.push(variable);
                    *old = new;
                }
                false => reloaded.need_restart.push(variable),
            }
        }
        Ok(reloaded)
    }

    /// Reloads and logs the result.
    pub fn reload_and_log(&mut self) {
        match self.reload(&Environment::of_process()) {
            Ok(reloaded) => {
                let applied = reloaded.applied.join(", ");
                let need_restart = reloaded.need_restart.join(", ");
                match reloaded.applied.is_empty() {
                    true => tracing::info!("settings reloaded: no key or limit has changed"),
                    false => tracing::info!(changed = applied, "settings reloaded"),
                }
                if !reloaded.need_restart.is_empty() {
                    tracing::warn!(
                        settings = need_restart,
                        "these settings have changed and need a restart"
                    );
                }
            }
            Err(error) => tracing::error!(
                error,
                "reloading the settings failed; the old settings stay in force"
            ),
        }
    }
}
