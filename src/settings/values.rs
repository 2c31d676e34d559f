//! The values, as plain types.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use llamatower_layers::breaker::BreakerPolicy;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::Budget;

use super::{ExtraPath, Secret, SizeOrShare};
use crate::edge::{BasePath, ListenAddr, Origins};
use crate::ollama::fleet::{Dns, QueueRules, Share};
use crate::ollama::upstream::{Access, Address};
use crate::telemetry::LogFormat;

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
    /// Who waits for a slot.
    pub queue: QueueRules,
    /// When a backend is left alone.
    pub breaker: BreakerPolicy,
    /// Which answers are kept.
    pub cache: Cache,
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
    /// How many requests a server is sent at a time for one model.
    pub slots: Slots,
    /// What they are shown, and which certificates of theirs are trusted.
    pub access: Access,
    /// Further paths.
    pub extra_paths: Vec<ExtraPath>,
    /// How the servers' names are resolved.
    pub dns: Dns,
    /// From one probe to the next.
    pub probe_interval: Duration,
    /// How long an answer to a probe may take.
    pub probe_timeout: Duration,
    /// Idle connections to each server.
    pub pool_idle: NonZeroUsize,
    /// How long they are kept.
    pub pool_idle_timeout: Duration,
}

/// How many requests a server is sent at a time for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Those of the servers that are not named; as many as come if not set.
    pub others: Option<NonZeroUsize>,
    /// Those of the servers that are.
    pub named: Vec<(Address, NonZeroUsize)>,
}

impl Backends {
    /// The slots of each server, in their order.
    pub fn slots_of_each(&self) -> Vec<Option<NonZeroUsize>> {
        let of = |address: &Address| {
            let mut named = self.slots.named.iter();
            let own = named.find(|(named, _)| named == address);
            own.map(|(_, slots)| *slots).or(self.slots.others)
        };
        self.addresses.iter().map(of).collect()
    }
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
    /// When first bytes should have come: what would make them late is refused.
    pub first_byte_target: Option<Duration>,
    /// Requests of everybody together.
    pub rate: Option<Quota>,
    /// Requests of each client.
    pub key_rate: Option<Quota>,
    /// Tokens of each client; none if there is no limit.
    pub key_tokens: Vec<Budget>,
    /// What single keys have instead, by their names.
    pub key_limits: BTreeMap<Arc<str>, KeyLimits>,
    /// Where days and months of token limits begin.
    pub time_zone: TimeZone,
}

/// What one key has instead of what most have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests.
    pub rate: Option<Quota>,
    /// Tokens; those for most if there is none.
    pub tokens: Vec<Budget>,
    /// Its share of the slots.
    pub share: Share,
}

/// Which answers are kept.
#[derive(Clone, Debug)]
pub struct Cache {
    /// So many bytes of them; none if it is off.
    pub max_bytes: Option<u64>,
    /// For so long.
    pub time_to_live: Option<Duration>,
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
