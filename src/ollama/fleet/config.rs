//! The configuration of a fleet.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::LlmRequest;
use llamatower_layers::breaker::BreakerPolicy;
use llamatower_layers::live::Live;
use llamatower_layers::queue::{Priority, Queue, QueueLimitNames};

use super::Dispatcher;
use super::cordon::Cordons;
use super::policy::NO_LIMIT;
use super::router::LoadObserver;
use super::rules::ServerRules;
use crate::clients::Client;
use crate::ollama::upstream::Access;
use crate::shared::{Leases, Loads};

/// The configuration of a fleet.
#[derive(Clone, Debug, Default)]
pub struct FleetConfig {
    /// When and how backends are probed.
    pub clocks: ProbeClocks,
    /// How host names are resolved.
    pub dns: Dns,
    /// The tokens for servers, and the trusted certificates.
    pub access: Access,
    /// For each host, the number of concurrent requests for one model.
    pub slots: Vec<SlotRule>,
    /// For each host, the rules for its servers; the default applies to hosts without an entry.
    pub servers: Vec<ServerRules>,
    /// What happens to the context sizes that requests ask for.
    pub context: ContextRules,
    /// The limits of the queue.
    pub queue: QueueRules,
    /// Time-out of the gateway's own loads; `None` means no limit.
    pub load_timeout: Option<Duration>,
    /// Who is told of loads of models.
    pub loads: Option<Arc<dyn LoadObserver>>,
    /// When the circuit breaker of a backend opens.
    pub breaker: BreakerPolicy,
    /// The servers that are cordoned, also before they are known.
    pub cordons: Cordons,
    /// The leases of configured slots, if gateways share them.
    pub leases: Option<Leases>,
    /// The loads of models, if gateways know those of each other.
    pub shared_loads: Option<Loads>,
    /// The shares of clients that differ from the default.
    pub shares: Live<BTreeMap<Arc<str>, Share>>,
}

/// The number of concurrent requests for one model on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotRule {
    /// It is learned from the responses.
    #[default]
    Learn,
    /// No limit: requests never wait in the gateway.
    Off,
    /// This number, like Ollama's `OLLAMA_NUM_PARALLEL`.
    Count(NonZeroUsize),
}

impl fmt::Display for SlotRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learn => f.write_str("learn"),
            Self::Off => f.write_str("off"),
            Self::Count(slots) => slots.fmt(f),
        }
    }
}

impl SlotRule {
    /// The number, if it is set.
    pub fn count(self) -> Option<NonZeroUsize> {
        match self {
            Self::Count(slots) => Some(slots),
            Self::Learn | Self::Off => None,
        }
    }

    /// The configured number; `None` to learn it.
    pub(super) fn configured(self) -> Option<u32> {
        match self {
            Self::Learn => None,
            Self::Off => Some(NO_LIMIT),
            Self::Count(slots) => Some(u32::try_from(slots.get()).unwrap_or(u32::MAX)),
        }
    }
}

/// What happens to the context size that a request asks for (`options.num_ctx`). It concerns
/// Ollama's own dialect; the others have no such field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextRules {
    /// Whether a request gets the context that the model in memory has, if that is large enough.
    /// Otherwise its server loads the model again.
    pub keeps: bool,
    /// Larger sizes are lowered to this one.
    pub max: Option<NonZeroU64>,
}

impl ContextRules {
    /// The size that the request gets at least, in tokens; `None` for the server's default.
    pub(super) fn asked(self, request: &LlmRequest) -> Option<u64> {
        let max = self.max.filter(|_| request.places.has_num_ctx());
        let lowered = |asked: u64| max.map_or(asked, |max| asked.min(max.get()));
        request.num_ctx.map(lowered)
    }

    /// Whether the request may get a larger context than it asks for.
    pub(super) fn may_change(self, request: &LlmRequest) -> bool {
        self.keeps && request.places.has_num_ctx()
    }
}

/// The interval and time-outs of probes.
#[derive(Clone, Copy, Debug)]
pub struct ProbeClocks {
    /// From the end of one probe to the beginning of the next.
    pub interval: Duration,
    /// Time-out of a probe's response.
    pub timeout: Duration,
    /// Time-out of a probe's connection.
    pub connect: Duration,
}

impl Default for ProbeClocks {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            connect: Duration::from_secs(2),
        }
    }
}

/// How host names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The DNS servers; if empty, those of the system.
    pub servers: Vec<SocketAddr>,
    /// A name is resolved again when its addresses expire, but not earlier than this.
    pub min_ttl: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
        }
    }
}

/// The limits of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    /// Limit of the waiting requests for one model.
    pub max_waiting: usize,
    /// Limit of the waiting requests of one client for one model; `None` means no separate limit.
    pub max_waiting_per_key: Option<usize>,
    /// Limit of the predicted wait.
    pub max_predicted_wait: Option<Duration>,
    /// Limit of the actual wait.
    pub max_wait: Option<Duration>,
    /// The wait after which a request's priority rises by one level.
    pub ageing: Option<Duration>,
}

impl Default for QueueRules {
    fn default() -> Self {
        Self {
            max_waiting: 512,
            max_waiting_per_key: None,
            max_predicted_wait: Some(Duration::from_secs(300)),
            max_wait: Some(Duration::from_secs(300)),
            ageing: Some(Duration::from_secs(30)),
        }
    }
}

/// The settings of the queue, for the texts of errors.
const QUEUE_LIMITS: &QueueLimitNames = &QueueLimitNames {
    max_waiting: "LLAMATOWER_QUEUE_MAX_WAITING",
    max_waiting_per_key: "LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY",
    max_predicted_wait: "LLAMATOWER_QUEUE_MAX_PREDICTED_WAIT",
    max_wait: "LLAMATOWER_QUEUE_MAX_WAIT",
    // A key, a user of a key, or a network with a name.
    key: "this client",
    shared_key: "your address",
};

impl QueueRules {
    pub(super) fn queue<S>(&self, dispatcher: Dispatcher<S>) -> Queue<Dispatcher<S>> {
        Queue::new(dispatcher)
            .with_max_waiting(self.max_waiting)
            .with_max_waiting_per_key(self.max_waiting_per_key)
            .with_max_predicted_wait(self.max_predicted_wait)
            .with_max_wait(self.max_wait)
            .with_ageing(self.ageing)
            .with_limit_names(QUEUE_LIMITS)
    }
}

/// A client's share of the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// A client with twice the weight gets twice the tokens while others wait too.
    pub weight: NonZeroU32,
    /// Requests with a higher priority go first.
    pub priority: Priority,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: NonZeroU32::MIN,
            priority: Priority::default(),
        }
    }
}

impl FleetConfig {
    pub(super) fn slot_rule(&self, host: usize) -> SlotRule {
        self.slots.get(host).copied().unwrap_or_default()
    }

    pub(super) fn share_of(&self, client: Option<&Client>) -> Share {
        // Each user of a key has the share of the key.
        match client.and_then(Client::key) {
            Some(name) => self.shares.get().get(name).copied().unwrap_or_default(),
            None => Share::default(),
        }
    }
}
