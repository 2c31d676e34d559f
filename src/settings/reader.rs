//! Texts into settings.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::breaker::BreakerPolicy;

use super::source::{self, Texts};
use super::{
    Backends, Cache, Keys, Limits, Listen, Problem, Retry, SETTINGS, Secret, Settings,
    SettingsError, Telemetry, Timeouts,
    parse::{self, items},
};
use crate::edge::{ListenAddr, Origins};
use crate::ollama::fleet::{Dns, QueueRules};
use crate::ollama::upstream::{Access, Address, has_user};
use crate::telemetry::LogFormat;

/// Reads one value after the other and collects what is wrong.
pub(super) struct Reader {
    texts: Texts,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(texts: Texts, problems: Vec<Problem>) -> Self {
        Self { texts, problems }
    }

    /// All settings, and the texts that they were read from.
    pub(super) fn read(mut self) -> Result<(Texts, Settings), SettingsError> {
        match self.settings() {
            Some(settings) if self.problems.is_empty() => Ok((self.texts, settings)),
            _ => Err(SettingsError::new(self.problems)),
        }
    }

    fn settings(&mut self) -> Option<Settings> {
        let listen = self.listen();
        let backends = self.backends();
        let timeouts = self.timeouts();
        let limits = self.limits();
        let queue = self.queue();
        let breaker = self.breaker();
        let cache = self.cache();
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
            queue: queue?,
            breaker: breaker?,
            cache: cache?,
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
        let addresses = self.parsed("backends.urls", parse::addresses);
        let known = addresses.clone().unwrap_or_default();
        let management = self.parsed_or_default("backends.management", |text| {
            let called = parse::called(&known, text)?;
            Ok(known
                .iter()
                .position(|known| *known == *called[0])
                .unwrap_or_default())
        });
        let slots = self.parsed("backends.slots", |text| parse::slots(text, &known));
        let access = self.access(&known);
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
            slots: slots?,
            access: access?,
            extra_paths: extra_paths?,
            dns: Dns {
                servers: self.parsed_or_default("backends.dns_servers", parse::dns_servers)?,
                min_ttl: self.parsed("backends.dns_min_ttl", parse::duration)?,
            },
            probe_interval: self.parsed("backends.probe_interval", parse::duration)?,
            probe_timeout: self.parsed("backends.probe_timeout", parse::duration)?,
            pool_idle: self.parsed("backends.pool_idle", parse::count)?,
            pool_idle_timeout: self.parsed("backends.pool_idle_timeout", parse::duration)?,
        })
    }

    fn access(&mut self, servers: &[Address]) -> Option<Access> {
        let tokens = self.parsed_or_default("backends.tokens", |text| parse::tokens(text, servers));
        let own = self.parsed_or_default("backends.ca_file", |path| {
            parse::authorities(path).map(Some)
        });
        let (tokens, own) = (tokens?, own?);
        let access = Access::new(tokens);
        if own.is_none() && !servers.iter().any(Address::is_https) {
            return Some(access);
        }
        let trust = own.unwrap_or_default().trust();
        trust
            .map(|trust| access.with_trust(trust))
            .map_err(|error| {
                self.problems
                    .push(Problem::new("LLAMATOWER_BACKEND_CA_FILE", error));
            })
            .ok()
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
            first_byte_target: self.parsed("limits.first_byte_target", parse::optional_duration)?,
            rate: self.parsed("limits.rate", parse::rate)?,
            key_rate: self.parsed("limits.key_rate", parse::rate)?,
            key_tokens: self.parsed("limits.key_tokens", parse::token_budgets)?,
            key_limits: self.parsed_or_default("limits.key_limits", parse::key_limits)?,
            time_zone: self.parsed("limits.time_zone", parse::time_zone)?,
        })
    }

    fn queue(&mut self) -> Option<QueueRules> {
        let duration = parse::optional_duration;
        Some(QueueRules {
            max_waiting: self.parsed("queue.max_waiting", parse::count)?.get(),
            max_waiting_per_key: self
                .parsed("queue.max_waiting_per_key", parse::optional_count)?
                .map(NonZeroUsize::get),
            max_predicted_wait: self.parsed("queue.max_predicted_wait", duration)?,
            max_wait: self.parsed("queue.max_wait", duration)?,
            ageing: self.parsed("queue.ageing", duration)?,
        })
    }

    fn breaker(&mut self) -> Option<BreakerPolicy> {
        let consecutive = self.parsed("breaker.failures", |text| match text {
            "off" => Ok(None),
            text => parse::positive(text).map(Some),
        })?;
        let ratio = self.parsed("breaker.ratio", parse::number)?;
        let min_requests = self.parsed("breaker.min_requests", parse::positive)?;
        let open_for = self.parsed("breaker.open_for", parse::duration)?;
        let at_most = self.parsed("breaker.open_at_most", parse::duration)?;
        Some(
            BreakerPolicy::default()
                .with_consecutive_failures(consecutive)
                .with_failure_ratio(ratio, min_requests)
                .with_window(self.parsed("breaker.window", parse::duration)?)
                .with_open_for(open_for, at_most),
        )
    }

    fn cache(&mut self) -> Option<Cache> {
        Some(Cache {
            max_bytes: self.parsed("cache.max_bytes", |text| match text {
                "off" => Ok(None),
                text => parse::size(text).map(Some),
            })?,
            time_to_live: self.parsed("cache.time_to_live", parse::optional_duration)?,
        })
    }

    fn retry(&mut self) -> Option<Retry> {
        Some(Retry {
            attempts: self.parsed("retry.attempts", parse::positive)?,
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
    // An address with an @ may hold a password.
    let shown = match setting.form.is_secret() || has_user(&text.value) {
        true => "its value is not shown".to_owned(),
        false => format!("it is {:?}", text.value),
    };
    Problem::new(
        subject,
        format!("{reason} ({shown}; expected {})", setting.form.describe()),
    )
}
