//! What a fleet is told by the settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::breaker::BreakerPolicy;
use llamatower_layers::live::Live;
use llamatower_layers::queue::{Priority, Queue};

use super::Dispatcher;
use crate::client::Client;
use crate::ollama::upstream::Access;

/// How a fleet is run.
#[derive(Clone, Debug, Default)]
pub struct FleetConfig {
    /// When backends are probed.
    pub clocks: ProbeClocks,
    /// How names of hosts are resolved.
    pub dns: Dns,
    /// What servers are shown, and which certificates of theirs are trusted.
    pub access: Access,
    /// For each host, how many requests it is sent at a time for one model.
    pub slots: Vec<Option<NonZeroUsize>>,
    /// Who may wait for a slot.
    pub queue: QueueRules,
    /// When a backend is left alone.
    pub breaker: BreakerPolicy,
    /// What keys have that are not like the others.
    pub shares: Live<BTreeMap<Arc<str>, Share>>,
}

/// How often and how patiently backends are probed.
#[derive(Clone, Copy, Debug)]
pub struct ProbeClocks {
    /// From the end of one probe to the beginning of the next.
    pub interval: Duration,
    /// How long one answer to a probe may take.
    pub timeout: Duration,
    /// How long opening a connection for it may take.
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

/// How names of hosts are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// The servers that are asked; those of the system if there are none.
    pub servers: Vec<SocketAddr>,
    /// Addresses are asked for again when they expire, but not earlier than this.
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

/// Who may wait for a slot, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    /// Requests that may wait for one model.
    pub max_waiting: usize,
    /// Those of one client among them; as many as there is room for if not set.
    pub max_waiting_per_key: Option<usize>,
    /// How long a request may be expected to wait.
    pub max_predicted_wait: Option<Duration>,
    /// How long it may wait in truth.
    pub max_wait: Option<Duration>,
    /// After how long it rises by one priority.
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

impl QueueRules {
    pub(super) fn queue<S>(&self, dispatcher: Dispatcher<S>) -> Queue<Dispatcher<S>> {
        Queue::new(dispatcher)
            .with_max_waiting(self.max_waiting)
            .with_max_waiting_per_key(self.max_waiting_per_key)
            .with_max_predicted_wait(self.max_predicted_wait)
            .with_max_wait(self.max_wait)
            .with_ageing(self.ageing)
    }
}

/// A client's share of the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Twice the weight is twice the tokens, while others wait too.
    pub weight: NonZeroU32,
    /// Who is more urgent goes first.
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
    pub(super) fn share_of(&self, client: Option<&Client>) -> Share {
        match client {
            Some(Client::Key(name)) => self.shares.get().get(name).copied().unwrap_or_default(),
            _ => Share::default(),
        }
    }
}
