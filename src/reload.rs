//! Settings that are read again while the gateway serves.
//!
//! All settings are read as at the start, from the same places. If anything is wrong with them, all of
//! the old ones stay. Otherwise those of [`RELOADABLE`] are in force from then on, for requests that
//! come; requests under way go on by what they began with. What else has changed is named in the log,
//! since it needs a restart.

use std::path::PathBuf;

use crate::live::{LiveSettings, RELOADABLE};
use crate::settings::{EffectiveSetting, Environment, Loaded, Settings};

/// Reads settings again.
#[derive(Debug)]
pub struct Reloader {
    config: Option<PathBuf>,
    live: LiveSettings,
    /// What is in force.
    effective: Vec<EffectiveSetting>,
}

/// What came of reading the settings again: the variables of settings that have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Those that are in force now.
    pub applied: Vec<&'static str>,
    /// Those that will be after a restart.
    pub need_restart: Vec<&'static str>,
}

impl Reloader {
    /// For a gateway that was started with the settings `loaded`, of which `config` was the file.
    pub fn new(config: Option<PathBuf>, loaded: &Loaded, live: LiveSettings) -> Self {
        Self {
            config,
            live,
            effective: loaded.effective.clone(),
        }
    }

    /// Reads all settings again and puts in force what can be.
    ///
    /// # Errors
    /// What is wrong with the settings, as `llamatower check` tells it. Then nothing has changed.
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

    /// Reads all settings again and says in the log what came of it.
    pub fn reload_and_log(&mut self) {
        match self.reload(&Environment::of_process()) {
            Ok(reloaded) => {
                let applied = reloaded.applied.join(", ");
                let need_restart = reloaded.need_restart.join(", ");
                match reloaded.applied.is_empty() {
                    true => tracing::info!("settings read again: no key and no limit has changed"),
                    false => tracing::info!(changed = applied, "settings read again"),
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
                "the settings cannot be read again; those in force stay"
            ),
        }
    }
}
