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
mod report;
mod secret;
mod source;
mod table;

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Problem, SettingsError};
pub use parse::{ExtraPath, SizeOrShare};
pub use report::{EffectiveSetting, example_file, reference};
pub use secret::Secret;
pub use table::{Form, SETTINGS, Setting};

use llamatower_layers::rate_limit::Quota;

use crate::edge::{BasePath, ListenAddr, Origins};
use crate::ollama::upstream::Address;
use crate::telemetry::LogFormat;
use source::Texts;

/// All settings, by the room they are for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients come from.
    pub listen: Listen,
    /// Who is asked.
    pub backends: Backends,
    /// Clocks.
    pub timeouts: Timeouts,
    /// Bounds.
    pub limits: Limits,
    /// When a request is sent again.
    pub retry: Retry,
    /// Who may ask.
    pub keys: Keys,
    /// What is told of it.
    pub telemetry: Telemetry,
    /// Threads that serve requests; as many as CPUs if not set.
    pub worker_threads: Option<NonZeroUsize>,
}

/// Where clients come from.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses for clients.
    pub public: Vec<ListenAddr>,
    /// Addresses for operators; none if it is off.
    pub admin: Vec<ListenAddr>,
    /// A prefix of all paths.
    pub base_path: Option<BasePath>,
    /// Ollama's default origins, and those of the settings.
    pub origins: Origins,
    /// Connections open at a time.
    pub max_connections: NonZeroUsize,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub struct Backends {
    /// The servers, each once.
    pub addresses: Vec<Address>,
    /// The model of requests that name none.
    pub default_model: Option<Arc<str>>,
    /// Which of the servers manages models, as an index.
    pub management: usize,
    /// Further paths.
    pub extra_paths: Vec<ExtraPath>,
    /// From one probe to the next.
    pub probe_interval: Duration,
    /// How long an answer to a probe may take.
    pub probe_timeout: Duration,
    /// Idle connections to each server.
    pub pool_idle: NonZeroUsize,
    /// How long they are kept.
    pub pool_idle_timeout: Duration,
}

/// Clocks; one that is `None` is off.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// Opening a connection to a server.
    pub connect: Duration,
    /// From a request sent to the first byte of its answer.
    pub first_byte: Option<Duration>,
    /// Between two bytes of an answer.
    pub idle: Option<Duration>,
    /// A whole answer.
    pub total: Option<Duration>,
    /// A client that does not read.
    pub write_stall: Duration,
    /// The head of a request.
    pub header: Duration,
    /// An idle connection of a client.
    pub keep_alive: Duration,
    /// Between two bytes of a request's body.
    pub body_read: Duration,
    /// Accepting further connections after SIGTERM.
    pub drain_delay: Duration,
    /// Requests under way after that.
    pub drain: Duration,
}

/// Bounds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests under way at a time.
    pub in_flight: NonZeroUsize,
    /// An inference request's body, in bytes.
    pub body: u64,
    /// The bodies of all requests under way.
    pub body_memory: SizeOrShare,
    /// Requests of everybody together.
    pub rate: Option<Quota>,
    /// Requests of each client.
    pub key_rate: Option<Quota>,
}

/// When a request is sent again.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Attempts in all.
    pub attempts: NonZeroU32,
    /// Retries for each request.
    pub budget_ratio: f64,
    /// Retries a second, however few requests there are.
    pub budget_floor: f64,
}

/// Who may ask.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Lines of digests of keys for clients.
    pub api: Vec<Secret>,
    /// Lines of digests of keys for administrators.
    pub admin: Vec<Secret>,
    /// The cloud's key.
    pub groq: Option<Secret>,
}

/// What is told of it.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Which log lines are written.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Whether a client's trace is continued.
    pub trusts_inbound_trace: bool,
}

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
        let texts = Texts::gather(file, environment, &mut problems);
        let mut reader = Reader { texts, problems };
        let settings = reader.settings();
        match settings {
            Some(settings) if reader.problems.is_empty() => Ok(Loaded {
                effective: report::effective(&reader.texts, &settings),
                settings,
            }),
            _ => Err(SettingsError::new(reader.problems)),
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

/// Reads one value after the other and collects what is wrong.
struct Reader {
    texts: Texts,
    problems: Vec<Problem>,
}

impl Reader {
    fn settings(&mut self) -> Option<Settings> {
        let listen = self.listen();
        let backends = self.backends();
        let timeouts = self.timeouts();
        let limits = self.limits();
        let retry = self.retry();
        let keys = self.keys();
        let telemetry = self.telemetry();
        let worker_threads = self.parsed("runtime.worker_threads", |text| match text {
            "auto" => Ok(None),
            text => parse::count(text).map(Some),
        });
        Some(Settings {
            listen: listen?,
            backends: backends?,
            timeouts: timeouts?,
            limits: limits?,
            retry: retry?,
            keys: keys?,
            telemetry: telemetry?,
            worker_threads: worker_threads?,
        })
    }

    fn listen(&mut self) -> Option<Listen> {
        let addresses = |text: &str| -> Result<Vec<ListenAddr>, String> {
            let found: Result<Vec<ListenAddr>, _> = items(text).map(str::parse).collect();
            let found = found.map_err(|error| error.to_string())?;
            match found
                .iter()
                .enumerate()
                .find(|(index, address)| found[..*index].contains(address))
            {
                Some((_, twice)) => Err(format!("{twice} stands there twice")),
                None => Ok(found),
            }
        };
        Some(Listen {
            public: self.parsed("listen.public", addresses)?,
            admin: self.parsed("listen.admin", |text| match text {
                "off" => Ok(Vec::new()),
                text => addresses(text),
            })?,
            base_path: self.parsed_or_default("listen.base_path", parse::base_path)?,
            origins: self.parsed_or_default("listen.origins", |text| {
                Origins::with(items(text)).map_err(|error| error.to_string())
            })?,
            max_connections: self.parsed("listen.max_connections", parse::count)?,
        })
    }

    fn backends(&mut self) -> Option<Backends> {
        let addresses = self.parsed("backends.urls", |text| {
            let mut found: Vec<Address> = Vec::new();
            for item in items(text) {
                let address = item.parse().map_err(|error| format!("{error}"))?;
                if !found.contains(&address) {
                    found.push(address);
                }
            }
            match found.is_empty() {
                true => Err("it names no server".to_owned()),
                false => Ok(found),
            }
        });
        let known = addresses.clone().unwrap_or_default();
        let management = self.parsed_or_default("backends.management", |text| {
            let address: Address = text.parse().map_err(|error| format!("{error}"))?;
            let place = known.iter().position(|known| *known == address);
            place.ok_or_else(|| format!("{address} is none of the servers in OLLAMA_URL"))
        });
        let default_model = self.parsed_or_default("backends.default_model", |text| {
            Ok(Some(Arc::<str>::from(text)))
        });
        let extra_paths = self.parsed_or_default("backends.extra_paths", |text| {
            items(text).map(parse::extra_path).collect()
        });
        Some(Backends {
            addresses: addresses?,
            default_model: default_model?,
            management: management?,
            extra_paths: extra_paths?,
            probe_interval: self.parsed("backends.probe_interval", parse::duration)?,
            probe_timeout: self.parsed("backends.probe_timeout", parse::duration)?,
            pool_idle: self.parsed("backends.pool_idle", parse::count)?,
            pool_idle_timeout: self.parsed("backends.pool_idle_timeout", parse::duration)?,
        })
    }

    fn timeouts(&mut self) -> Option<Timeouts> {
        let ollama: Option<Duration> =
            self.parsed_or_default("timeouts.ollama", parse::optional_duration)?;
        let first_byte = self.parsed("timeouts.first_byte", parse::optional_duration)?;
        let idle = self.parsed("timeouts.idle", parse::optional_duration)?;
        let unless_set = |key: &str, value: Option<Duration>| match ollama {
            Some(_) if self.is_default(key) => ollama,
            _ => value,
        };
        Some(Timeouts {
            first_byte: unless_set("timeouts.first_byte", first_byte),
            idle: unless_set("timeouts.idle", idle),
            connect: self.parsed("timeouts.connect", parse::duration)?,
            total: self.parsed("timeouts.total", parse::optional_duration)?,
            write_stall: self.parsed("timeouts.write_stall", parse::duration)?,
            header: self.parsed("timeouts.header", parse::duration)?,
            keep_alive: self.parsed("timeouts.keep_alive", parse::duration)?,
            body_read: self.parsed("timeouts.body_read", parse::duration)?,
            drain_delay: self.parsed("timeouts.drain_delay", parse::pause)?,
            drain: self.parsed("timeouts.drain", parse::pause)?,
        })
    }

    fn limits(&mut self) -> Option<Limits> {
        Some(Limits {
            in_flight: self.parsed("limits.in_flight", parse::count)?,
            body: self.parsed("limits.body", parse::size)?,
            body_memory: self.parsed("limits.body_memory", parse::size_or_share)?,
            rate: self.parsed("limits.rate", parse::rate)?,
            key_rate: self.parsed("limits.key_rate", parse::rate)?,
        })
    }

    fn retry(&mut self) -> Option<Retry> {
        Some(Retry {
            attempts: self.parsed("retry.attempts", |text| {
                text.parse()
                    .map_err(|_| "it is no whole number above 0".to_owned())
            })?,
            budget_ratio: self.parsed("retry.budget_ratio", parse::number)?,
            budget_floor: self.parsed("retry.budget_floor", parse::number)?,
        })
    }

    fn keys(&mut self) -> Option<Keys> {
        let lines = |text: &str| -> Result<Vec<Secret>, String> {
            let lines: Vec<Secret> = items(text).map(Secret::new).collect();
            llamatower_layers::api_key::KeySet::from_lines(
                lines.iter().map(Secret::expose),
                llamatower_layers::api_key::Role::User,
            )
            .map_err(|error| error.to_string())?;
            Ok(lines)
        };
        Some(Keys {
            api: self.parsed_or_default("keys.api", lines)?,
            admin: self.parsed_or_default("keys.admin", lines)?,
            groq: self.parsed_or_default("keys.groq", |text| Ok(Some(Secret::new(text))))?,
        })
    }

    fn telemetry(&mut self) -> Option<Telemetry> {
        Some(Telemetry {
            log: self.parsed("telemetry.log", |text| Ok(text.to_owned()))?,
            log_format: self.parsed("telemetry.log_format", |text| match text {
                "auto" => Ok(LogFormat::Auto),
                "human" => Ok(LogFormat::Human),
                "json" => Ok(LogFormat::Json),
                _ => Err("it is none of human, json, auto".to_owned()),
            })?,
            trusts_inbound_trace: self.parsed("telemetry.trust_trace", parse::switch)?,
        })
    }

    fn is_default(&self, key: &str) -> bool {
        self.texts
            .get(key)
            .is_some_and(|text| text.source == "default")
    }

    /// The value of a setting that has a default.
    fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.texts.get(key)?.clone();
        match parse(&text.value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.problems.push(problem(key, &text, &reason));
                None
            }
        }
    }

    fn parsed_or_default<T: Default>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match self.texts.get(key) {
            Some(_) => self.parsed(key, parse),
            None => Some(T::default()),
        }
    }
}

fn problem(key: &str, text: &source::Text, reason: &str) -> Problem {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
        return Problem::new(key, reason);
    };
    let subject = match text.source.starts_with(setting.variable) {
        true => text.source.clone(),
        false => format!("{key} in {}", text.source),
    };
    let shown = match setting.form.is_secret() {
        true => "its value is not shown".to_owned(),
        false => format!("it is {:?}", text.value),
    };
    Problem::new(
        subject,
        format!("{reason} ({shown}; expected {})", setting.form.describe()),
    )
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n'])
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
