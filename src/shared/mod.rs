//! What several gateways share: limits, slots, fairness, loads, usage and cordons, through Redis; or each has its part.
//!
//! ```text
//! requests ── Rates, Tokens ──▶ Redis       (one call for all, within LLAMATOWER_REDIS_TIMEOUT)
//!                └ no answer: pass, refuse, or this gateway's part in memory
//! choice of a server ── Leases, Loads ──▶ Redis     (the same)
//! each 250 ms: what clients have received ◀──▶ Redis
//! each second: members, cordons ◀──▶ Redis       half a second after a change: usage ──▶ Redis
//! ```
//!
//! Without Redis, and with `LLAMATOWER_PEERS`, each gateway has its part of the limits all the time. Without
//! either, all of this is off, and costs nothing.

mod fairness;
mod gateways;
mod leases;
mod loads;
mod members;
mod observer;
mod peers;
mod registered;
mod stores;
mod usage;

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use llamatower_layers::rate_limit::{MemoryBuckets, Quota};
use llamatower_layers::redis::{
    Redis, RedisAddress, RedisBuckets, RedisConfig, RedisStatus, RedisTokens,
};
use llamatower_layers::store::WhenUnavailable;
use llamatower_layers::token_limit::MemoryStore;

pub(crate) use fairness::{CounterId, MOST_COUNTERS, MOST_ROWS, Served, SharedService};
pub use gateways::Gateways;
pub use leases::{Claim, Lease, Leases};
pub use loads::{BeginLoad, LoadElsewhere, Loads, OwnLoad, Scope};
pub use members::Membership;
pub use peers::{Peers, PeersName};
pub use registered::{About, Member, Members, Registered};
pub use stores::{Rates, Reservation, Tokens};
pub use usage::SharedUsage;

use crate::settings::Settings;
use crate::telemetry::Metrics;
use observer::Observer;

/// The number of keys with a bucket or an account of their own in memory.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

/// What happens to requests while Redis does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutRedis {
    /// They are limited in memory, by this gateway's part of the limit.
    #[default]
    Share,
    /// They pass and are not counted.
    Open,
    /// They are refused.
    Closed,
}

impl WithoutRedis {
    fn when_unavailable(self) -> WhenUnavailable {
        match self {
            Self::Closed => WhenUnavailable::Refuse,
            Self::Share | Self::Open => WhenUnavailable::Admit,
        }
    }

    /// The consequence, for the log and operators.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Share => "limited to this gateway's part",
            Self::Open => "not limited",
            Self::Closed => "refused",
        }
    }
}

/// What this gateway shares with others. Clones are the same.
#[derive(Clone, Default)]
pub struct Sharing {
    redis: Option<Redis>,
    peers: Option<PeersName>,
    leases: Option<Leases>,
    loads: Option<Loads>,
    gateways: Gateways,
    registered: Registered,
    rates: WithoutRedis,
    tokens: WithoutRedis,
    deadline: Option<Duration>,
}

impl Sharing {
    /// Connects to the Redis of these settings, if there is one.
    ///
    /// # Panics
    /// Outside of a runtime of tokio.
    pub fn start(settings: &Settings, metrics: &Arc<Metrics>) -> Self {
        let sharing = &settings.sharing;
        let (rates, tokens) = (sharing.rates_without_redis, sharing.tokens_without_redis);
        let redis = sharing.redis.as_ref().map(|address| {
            let observer = Observer::new(metrics.clone(), address.clone(), rates, tokens);
            let config = RedisConfig::new(address.clone())
                .with_prefix(sharing.redis_prefix.clone())
                .with_deadline(sharing.redis_timeout)
                .with_observer(Arc::new(observer));
            Redis::start(config)
        });
        let gateways = Gateways::default();
        let leases = redis
            .clone()
            .map(|redis| Leases::new(redis, gateways.clone(), sharing.slots_without_redis));
        Self {
            deadline: redis.as_ref().map(|_| sharing.redis_timeout),
            loads: redis.clone().map(Loads::new),
            redis,
            leases,
            peers: sharing.peers.clone(),
            gateways,
            registered: Registered::default(),
            rates,
            tokens,
        }
    }

    /// The connection, if there is one.
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// The leases of slots, if there is a Redis.
    pub fn leases(&self) -> Option<&Leases> {
        self.leases.as_ref()
    }

    /// The loads of models, if there is a Redis.
    pub fn loads(&self) -> Option<&Loads> {
        self.loads.as_ref()
    }

    /// What gateways have served to clients, if there is a Redis.
    pub(crate) fn service(&self) -> Option<SharedService> {
        self.redis.clone().map(SharedService::new)
    }

    /// The number of gateways that divide limits where they do not share them.
    pub fn gateways(&self) -> &Gateways {
        &self.gateways
    }

    /// The gateways that have registered themselves in Redis.
    pub fn registered(&self) -> &Registered {
        &self.registered
    }

    /// The name by whose addresses the gateways are counted, if there is one.
    pub fn peers(&self) -> Option<&PeersName> {
        self.peers.as_ref()
    }

    /// What happens while Redis does not answer: to requests with a limit of requests, and of tokens.
    pub fn without_redis(&self) -> (WithoutRedis, WithoutRedis) {
        (self.rates, self.tokens)
    }

    /// The address and the state of Redis, if it is used.
    pub fn status(&self) -> Option<(RedisAddress, RedisStatus)> {
        let redis = self.redis.as_ref()?;
        Some((redis.address().clone(), redis.status()))
    }

    /// The buckets of the limit `limit`; `name_of` gives each key its own text.
    pub fn rates<K>(
        &self,
        limit: &str,
        quotas: impl IntoIterator<Item = Quota>,
        name_of: impl Fn(&K) -> String + Send + Sync + 'static,
    ) -> Rates<K>
    where
        K: Clone + Hash + Eq,
    {
        let memory = MemoryBuckets::new(quotas, MAX_KEYS).with_replicas(self.gateways.replicas());
        match &self.redis {
            None => Rates::Own(memory),
            Some(redis) => {
                let shared = RedisBuckets::new(redis.clone(), limit, name_of);
                Rates::Shared(match self.rates {
                    WithoutRedis::Share => shared.or_memory(memory),
                    WithoutRedis::Open | WithoutRedis::Closed => shared,
                })
            }
        }
    }

    /// The counts of the limit `limit`; `name_of` gives each key its own text.
    pub fn tokens<K>(
        &self,
        limit: &str,
        zone: &TimeZone,
        name_of: impl Fn(&K) -> String + Send + Sync + 'static,
    ) -> Tokens<K>
    where
        K: Clone + Hash + Eq,
    {
        let memory = MemoryStore::new(zone.clone()).with_replicas(self.gateways.replicas());
        match &self.redis {
            None => Tokens::Own(memory),
            Some(redis) => {
                let shared = RedisTokens::new(redis.clone(), limit, zone.clone(), memory, name_of);
                Tokens::Shared(match self.tokens {
                    WithoutRedis::Share => shared.or_memory(),
                    WithoutRedis::Open | WithoutRedis::Closed => shared,
                })
            }
        }
    }

    /// What a layer does if Redis has not answered a request for a rate, and for tokens.
    pub fn rules(&self) -> (WhenUnavailable, WhenUnavailable) {
        (
            self.rates.when_unavailable(),
            self.tokens.when_unavailable(),
        )
    }

    /// The deadline of the layers. The stores have one of their own, which is earlier.
    pub fn deadline(&self) -> Duration {
        self.deadline
            .unwrap_or(Duration::from_secs(1))
            .saturating_mul(2)
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing")
            .field("redis", &self.redis)
            .field("gateways", &self.gateways)
            .finish_non_exhaustive()
    }
}
