//! The slots of servers, shared by gateways through Redis.
//!
//! ```text
//! choice ── take ──▶ Redis: room? ── yes: the lease is held to the end of the response
//!                                 └─ no: the server counts as full until there is room
//! each second: the leases that are held ── renew ──▶ Redis       at the end: release ──▶ Redis
//! ```
//!
//! A lease ends 5 s after its last renewal, so the slots of a gateway that was killed are free again.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use llamatower_layers::queue::Line;
use llamatower_layers::redis::{Redis, RedisScript};
use llamatower_layers::store::StoreUnavailable;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::{Gateways, WithoutRedis};

mod keep;

static TAKE: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("take.lua")));

/// The time that a lease lasts after it was taken or renewed.
const LASTS: Duration = Duration::from_secs(5);
/// Between the names of a server and of a model, which have no such character.
const SEPARATOR: char = '\u{1f}';

/// The leases of this gateway. Clones share them.
#[derive(Clone)]
pub struct Leases(Arc<Inner>);

struct Inner {
    redis: Redis,
    gateways: Gateways,
    without_redis: WithoutRedis,
    gateway: String,
    last_number: AtomicU64,
    held: Mutex<HashMap<u64, Arc<[String]>>>,
    released: Mutex<Vec<Released>>,
    /// There are leases to release.
    has_released: Notify,
    /// Some were released.
    were_released: Notify,
    is_sharing: watch::Sender<bool>,
}

struct Released {
    keys: Arc<[String]>,
    lease: String,
}

/// The limits that a request is counted in.
#[derive(Clone, Debug)]
pub struct Claim {
    /// For each limit the key of its leases and that of the gateways that wait.
    keys: Arc<[String]>,
    limits: [Option<u32>; 2],
}

/// A slot that no other gateway can use while this is held. Dropping it releases the slot.
pub struct Lease {
    leases: Leases,
    claim: Claim,
    number: u64,
    state: State,
}

/// What Redis may know of a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was asked for.
    Asked,
    /// It is held, and renewed.
    Held,
    /// It was refused.
    Refused,
}

impl Leases {
    /// The leases of this gateway in `redis`. While that does not answer, slots are divided by the
    /// number of `gateways`, or not, as `without_redis` says.
    pub(super) fn new(redis: Redis, gateways: Gateways, without_redis: WithoutRedis) -> Self {
        Self(Arc::new(Inner {
            redis,
            gateways,
            without_redis,
            gateway: Uuid::new_v4().to_string(),
            last_number: AtomicU64::new(0),
            held: Mutex::default(),
            released: Mutex::default(),
            has_released: Notify::new(),
            were_released: Notify::new(),
            is_sharing: watch::Sender::new(true),
        }))
    }

    /// Whether slots are shared. If not, Redis does not answer.
    pub fn is_sharing(&self) -> bool {
        *self.0.is_sharing.borrow()
    }

    /// By how many the slots have to be divided now.
    pub fn divisor(&self) -> NonZeroU32 {
        match self.0.without_redis {
            WithoutRedis::Share if !self.is_sharing() => self.0.gateways.number(),
            _ => NonZeroU32::MIN,
        }
    }

    /// Calls `change` with the [`divisor`](Self::divisor) and with each new one, until it is dropped.
    pub async fn each_divisor(self, change: impl Fn(NonZeroU32)) {
        let told = Mutex::new(None);
        let tell = || {
            let divisor = self.divisor();
            if lock(&told).replace(divisor) != Some(divisor) {
                change(divisor);
            }
        };
        let mut is_sharing = self.0.is_sharing.subscribe();
        let sharing = async {
            // The sender lives as long as `self`.
            while is_sharing.changed().await.is_ok() {
                tell();
            }
        };
        let numbers = self.0.gateways.clone().each(|_| tell());
        tokio::join!(sharing, numbers);
    }

    /// The limits of a request for `model` on `server`: its slots, and the requests in flight of the
    /// server. `None` if there are no such limits.
    pub fn claim(
        &self,
        server: &str,
        model: &str,
        slots: Option<u32>,
        in_flight: Option<u32>,
    ) -> Option<Claim> {
        let redis = &self.0.redis;
        let mut keys = Vec::with_capacity(4);
        if slots.is_some() {
            let name = format!("{server}{SEPARATOR}{model}");
            keys.push(redis.key("lease:slots", &name));
            keys.push(redis.key("lease:slots:waiting", &name));
        }
        if in_flight.is_some() {
            keys.push(redis.key("lease:in_flight", server));
            keys.push(redis.key("lease:in_flight:waiting", server));
        }
        (!keys.is_empty()).then(|| Claim {
            keys: keys.into(),
            limits: [slots, in_flight],
        })
    }

    /// Takes a lease for a request with this place in the queue. Returns `None` if there is no room, also
    /// because another gateway waits with a request that comes first; then this gateway counts as waiting
    /// for `waits`.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn take(
        &self,
        claim: Claim,
        line: Line,
        waits: Duration,
    ) -> Result<Option<Lease>, StoreUnavailable> {
        let mut lease = self.lease(claim, State::Asked);
        let name = self.name(lease.number);
        let has_room = self.ask(&lease.claim, &name, line, waits).await?;
        if has_room {
            lease.hold();
            Ok(Some(lease))
        } else {
            lease.state = State::Refused;
            Ok(None)
        }
    }

    /// Whether there is room for a request with this place in the queue. If not, this gateway counts as
    /// waiting for `waits`.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn has_room(
        &self,
        claim: &Claim,
        line: Line,
        waits: Duration,
    ) -> Result<bool, StoreUnavailable> {
        self.ask(claim, "", line, waits).await
    }

    /// A lease that Redis has not given, of a request that is sent while Redis does not answer. Redis
    /// is told when it answers again.
    pub fn hold(&self, claim: Claim) -> Lease {
        let mut lease = self.lease(claim, State::Asked);
        lease.hold();
        lease
    }

    fn lease(&self, claim: Claim, state: State) -> Lease {
        Lease {
            leases: self.clone(),
            claim,
            number: self.0.last_number.fetch_add(1, Ordering::Relaxed) + 1,
            state,
        }
    }

    fn name(&self, number: u64) -> String {
        format!("{}:{number}", self.0.gateway)
    }

    async fn ask(
        &self,
        claim: &Claim,
        lease: &str,
        line: Line,
        waits: Duration,
    ) -> Result<bool, StoreUnavailable> {
        let mut arguments = vec![
            lease.to_owned(),
            self.0.gateway.clone(),
            line.level.to_string(),
            millis(line.since.elapsed()),
            millis(waits),
            millis(LASTS),
        ];
        // The counters of different models cannot be compared.
        for (most, counter) in claim.limits.iter().zip([line.counter, 0.0]) {
            if let Some(most) = most {
                arguments.extend([most.to_string(), counter.to_string()]);
            }
        }
        // The next request must not find the slot of the last one still taken.
        arguments.extend(self.take_released(claim));
        let keys: Vec<&str> = claim.keys.iter().map(String::as_str).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let asking = self.0.redis.run("lease", &TAKE, &keys, &arguments);
        let answer = asking.await.inspect_err(|_| self.note_failure())?;
        Ok(answer.first().is_some_and(|room| room == "1"))
    }

    /// The leases of these limits that are to be released.
    fn take_released(&self, claim: &Claim) -> Vec<String> {
        let mut released = lock(&self.0.released);
        let of_claim = released.extract_if(.., |released| released.keys == claim.keys);
        of_claim.map(|released| released.lease).collect()
    }

    /// Returns when leases were released since the last call.
    pub async fn were_released(&self) {
        self.0.were_released.notified().await;
    }

    fn note_failure(&self) {
        if self.0.is_sharing.send_replace(false) {
            let divisor = self.divisor();
            tracing::warn!(
                divided_by = divisor,
                "slots are not shared until Redis answers; LLAMATOWER_REDIS_DOWN_SLOTS says how many this \
                 gateway uses"
            );
        }
    }
}

impl Lease {
    fn hold(&mut self) {
        self.state = State::Held;
        let keys = self.claim.keys.clone();
        lock(&self.leases.0.held).insert(self.number, keys);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.state == State::Refused {
            return;
        }
        let inner = &*self.leases.0;
        lock(&inner.held).remove(&self.number);
        self.leases.add_released(Released {
            keys: self.claim.keys.clone(),
            lease: self.leases.name(self.number),
        });
        inner.has_released.notify_one();
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("is_sharing", &self.is_sharing())
            .field("held", &lock(&self.0.held).len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
