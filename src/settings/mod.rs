//! The configuration: read at start, and passed on as plain values.
//!
//! Each setting has a default, a key in the TOML file and an environment variable. The environment
//! overrides the file. [`SETTINGS`] is the table of all settings.
//!
//! ```
//! use llamatower::settings::{Environment, Settings};
//!
//! let environment = Environment::from_iter([("LLAMATOWER_IDLE_TIMEOUT", "1m30s")]);
//! let loaded = Settings::load(None, &environment)?;
//! assert_eq!(loaded.settings.timeouts.idle.map(|idle| idle.as_secs()), Some(90));
//!
//! let environment = Environment::from_iter([("LLAMATOWER_IDLE_TIMEOUT", "soon")]);
//! let error = Settings::load(None, &environment).expect_err("no duration");
//! assert!(error.to_string().contains("LLAMATOWER_IDLE_TIMEOUT"));
//! # Ok::<_, llamatower::settings::SettingsError>(())
//! ```

mod aliases;
mod cloud;
mod consistency;
mod declared_models;
mod environment;
mod error;
mod files;
mod keys_file;
mod nearest;
mod parse;
mod paths;
mod reader;
mod report;
mod secret;
mod server_tables;
mod servers;
mod setting;
mod source;
mod table;
mod tls;
mod unknown;
mod values;

use std::path::Path;

use crate::edge::ListenAddr;

pub use crate::ollama::fleet::SlotRule;
pub use cloud::{CloudModels, CloudWhen};
pub use declared_models::DeclaredModels;
pub use environment::Environment;
pub use error::{Problem, SettingsError};
pub use files::FilesRead;
pub(crate) use files::absolute;
pub(crate) use keys_file::expiry_or_duration;
pub use keys_file::{EXPIRES_SOON, KeyEntry, KeysFile, Permissions};
pub use report::{EffectiveSetting, example_environment, example_file, reference};
pub use secret::Secret;
pub use setting::{Form, Setting};
pub use table::{
    Backends, Breaking, Cache, Cloud, Config, Keys, Limits, Listen, Queue, Retry, Routing, Runtime,
    SETTINGS, Settings, Sharing, Telemetry, Timeouts, Tls,
};
pub use tls::{Http2, Listener, Listening, TlsListeners};
pub use values::{
    ExtraPath, KeyLimit, KeyLimits, ListingRate, NumCtx, PerServer, PlacedModel, ServerName,
    SizeOrShare,
};

use crate::telemetry::check_environment;
use reader::Reader;
use source::Texts;
pub(crate) use unknown::{ADMIN_KEY, CLIENT_KEY, CONFIG_FILE};
use unknown::{doubtful_variables, unknown_variables};

/// Settings and their sources.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// For each setting, in the order of [`SETTINGS`], its effective value and its source.
    pub effective: Vec<EffectiveSetting>,
    /// Values that are probably not intended.
    pub warnings: Vec<Problem>,
    /// OpenTelemetry variables that are not supported. Telemetry logs them itself when it starts.
    pub telemetry_warnings: Vec<Problem>,
    /// The files that were read.
    pub files: FilesRead,
}

impl Loaded {
    /// All warnings, in their order.
    pub fn all_warnings(&self) -> impl Iterator<Item = &Problem> {
        self.warnings.iter().chain(&self.telemetry_warnings)
    }
}

impl Settings {
    /// The addresses for clients, even if other settings are wrong.
    ///
    /// # Errors
    /// The addresses, or which of them speak TLS, cannot be parsed.
    pub fn listeners(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Listening, SettingsError> {
        let public = ("listen.public", Listener::Public);
        Self::listeners_of(public, parse::addresses, file, environment)
    }

    /// The addresses for operators, even if other settings are wrong; none if there is no such
    /// listener.
    ///
    /// # Errors
    /// The addresses, or which of them speak TLS, cannot be parsed.
    pub fn admin_listeners(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Listening, SettingsError> {
        let addresses = parse::or_off(parse::addresses);
        let admin = ("listen.admin", Listener::Admin);
        Self::listeners_of(admin, addresses, file, environment)
    }

    /// The addresses of a listener of these settings.
    pub fn listening(&self, listener: Listener) -> Listening {
        let addresses = match listener {
            Listener::Public => &self.listen.public,
            Listener::Admin => &self.listen.admin,
            Listener::Metrics => &self.listen.metrics,
        };
        Listening {
            addresses: addresses.clone(),
            tls: self.tls.addresses(listener, addresses),
            cert: self.tls.cert.clone(),
        }
    }

    /// The addresses whose `/health` answers without a proxy: those for clients, or those for operators if
    /// the first require the PROXY protocol. Other settings may be wrong.
    ///
    /// # Errors
    /// The addresses, or which of them speak TLS, cannot be parsed.
    pub fn checked_listeners(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Listening, SettingsError> {
        let mut others = Vec::new();
        let mut reader = Reader::new(
            SETTINGS,
            Texts::gather(SETTINGS, file, environment, &mut others),
            Vec::new(),
        );
        let is_required = reader.parsed(
            "listen.proxy_protocol",
            parse::one_of(&parse::PROXY_PROTOCOL),
        );
        match is_required {
            Some(true) => Self::admin_listeners(file, environment),
            _ => Self::listeners(file, environment),
        }
    }

    fn listeners_of(
        (key, listener): (&'static str, Listener),
        parse: impl Fn(&str) -> parse::Parsed<Vec<ListenAddr>>,
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Listening, SettingsError> {
        let mut others = Vec::new();
        let mut reader = Reader::new(
            SETTINGS,
            Texts::gather(SETTINGS, file, environment, &mut others),
            Vec::new(),
        );
        let addresses = reader.parsed(key, parse);
        let which = reader.parsed("tls.listeners", tls::tls_listeners);
        let cert = reader
            .parsed("tls.cert", parse::optional(parse::text))
            .flatten();
        let are_valid = reader.is_valid(key) && reader.is_valid("tls.listeners");
        match addresses.zip(which).filter(|_| are_valid) {
            Some((addresses, which)) => {
                let speaks_tls = |address: &&ListenAddr| which.include(listener, address);
                let all = addresses.iter().filter(|_| cert.is_some());
                Ok(Listening {
                    tls: all.filter(speaks_tls).cloned().collect(),
                    addresses,
                    cert,
                })
            }
            None => {
                reader.problems.extend(others);
                Err(SettingsError::new(reader.problems, reader.texts.files))
            }
        }
    }

    /// Reads all settings from the defaults, the TOML file if there is one, and the environment.
    ///
    /// # Errors
    /// All errors, each with the name of its variable or key.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Loaded, SettingsError> {
        let mut problems = Vec::new();
        let mut texts = Texts::gather(SETTINGS, file, environment, &mut problems);
        let mut unknown = texts.take_unknown_keys();
        unknown.extend(unknown_variables(environment, SETTINGS));
        let mut reader = Reader::new(SETTINGS, texts, problems);
        let mut settings = Self::read(&mut reader);
        if let Some(settings) = &mut settings {
            keys_file::merge(settings, &mut reader);
            // What is missing may be in a file with a mistake.
            if !reader.texts.lacks_file() {
                settings.backends.check(&mut reader);
                consistency::check(settings, &mut reader);
                tls::check(settings, &mut reader);
            }
        }
        let look_up = |name: &str| environment.get(name).map(str::to_owned);
        let (errors, telemetry_warnings) = check_environment(&look_up);
        for error in errors {
            let problem = Problem::of_telemetry(&error);
            // One variable can apply to traces and metrics.
            if !reader.problems.contains(&problem) {
                reader.problems.push(problem);
            }
        }
        let are_allowed = settings.as_ref().map(|all| all.config.allow_unknown);
        match are_allowed {
            Some(true) => reader.warnings.extend(unknown),
            _ => reader.problems.extend(unknown),
        }
        let doubtful = doubtful_variables(environment, SETTINGS);
        reader.warnings.extend(doubtful);
        match settings {
            Some(settings) if reader.problems.is_empty() => Ok(Loaded {
                effective: report::effective(&reader.texts),
                warnings: reader.warnings,
                telemetry_warnings: telemetry_warnings
                    .into_iter()
                    .map(|warning| Problem::new("OpenTelemetry", warning))
                    .collect(),
                files: reader.texts.files,
                settings,
            }),
            _ => Err(SettingsError::new(reader.problems, reader.texts.files)),
        }
    }
}
