//! Everything that can be configured: read once, at the start, and handed down as plain values.
//!
//! Each setting has a default, a place in the TOML file and a variable; the environment wins over
//! the file. [`SETTINGS`] is the one table of them.
//!
//! ```
//! use llamatower::settings::Settings;
//!
//! let environment = |name: &str| (name == "LLAMATOWER_IDLE_TIMEOUT").then(|| "1m30s".to_owned());
//! let loaded = Settings::load(None, &environment)?;
//! assert_eq!(loaded.settings.timeouts.idle.map(|idle| idle.as_secs()), Some(90));
//!
//! let environment = |name: &str| (name == "LLAMATOWER_IDLE_TIMEOUT").then(|| "soon".to_owned());
//! let error = Settings::load(None, &environment).expect_err("no duration");
//! assert!(error.to_string().contains("LLAMATOWER_IDLE_TIMEOUT"));
//! # Ok::<_, llamatower::settings::SettingsError>(())
//! ```

mod error;
mod parse;
mod reader;
mod report;
mod secret;
mod servers;
mod setting;
mod source;
mod table;
mod values;

use std::path::Path;

pub use error::{Problem, SettingsError};
pub use report::{EffectiveSetting, example_environment, example_file, reference};
pub use secret::Secret;
pub use setting::{Form, Setting};
pub use table::{
    Backends, Breaking, Cache, Keys, Limits, Listen, Queue, Retry, Runtime, SETTINGS, Settings,
    Telemetry, Timeouts,
};
pub use values::{ExtraPath, KeyLimits, ListingRate, ServerName, SizeOrShare, Slots};

use reader::Reader;
use source::Texts;

/// Settings, and where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// For each setting, in the order of [`SETTINGS`], its effective value and its source.
    pub effective: Vec<EffectiveSetting>,
}

impl Settings {
    /// Reads all settings from the defaults, a TOML file if there is one, and the environment.
    ///
    /// # Errors
    /// Everything that is wrong, each with the name of its variable or key.
    pub fn load(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, SettingsError> {
        let mut problems = Vec::new();
        let texts = Texts::gather(SETTINGS, file, environment, &mut problems);
        let mut reader = Reader { texts, problems };
        let settings = Self::read(&mut reader);
        if let Some(settings) = &settings {
            settings.backends.check(&mut reader);
        }
        match settings {
            Some(settings) if reader.problems.is_empty() => Ok(Loaded {
                effective: report::effective(&reader.texts),
                settings,
            }),
            _ => Err(SettingsError(reader.problems)),
        }
    }

    /// For each variable that looks like one of the gateway's and is none: which one was meant.
    pub fn warnings(names: impl Iterator<Item = String>) -> Vec<String> {
        let is_known = |name: &str| {
            SETTINGS.iter().any(|setting| {
                setting.variable == name || source::file_variable(setting).as_deref() == Some(name)
            })
        };
        let ours = names.filter(|name| name.starts_with("LLAMATOWER_"));
        let unknown = ours.filter(|name| name != "LLAMATOWER_CONFIG" && !is_known(name));
        let known = || SETTINGS.iter().map(|setting| setting.variable);
        let warning = |name: String| {
            let like = source::closest(&name, known());
            format!("{name} is no setting and does nothing; did you mean {like}?")
        };
        unknown.map(warning).collect()
    }
}
