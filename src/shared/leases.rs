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
use llamatower_layers::redis::{Redis, RedisScript};
use llamatower_layers::store::StoreUnavailable;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use super::{Gateways, WithoutRedis};

static TAKE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("lease_take.lua")));
static RENEW: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("lease_renew.lua")));
static RELEASE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("lease_release.lua")));

/// The time that a lease lasts after it was taken or renewed.
const LASTS: Duration = Duration::from_secs(5);
/// The time between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// After Redis was gone, slots are shared again after so many renewals in a row: until then the other
/// gateways have added the leases that they hold.
const RENEWALS: u32 = 3;
/// The releases that can wait for Redis. Further ones are not sent, and end by themselves.
const RELEASES: usize = 4096;
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

    /// Takes a lease for a request that arrived at this time. Returns `None` if there is no room; then
    /// this gateway counts as waiting for `waits`.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn take(
        &self,
        claim: Claim,
        arrived: Instant,
        waits: Duration,
    ) -> Result<Option<Lease>, StoreUnavailable> {
        let mut lease = self.lease(claim, State::Asked);
        let name = self.name(lease.number);
        let has_room = self.ask(&lease.claim, &name, arrived, waits).await?;
        if has_room {
            lease.hold();
            Ok(Some(lease))
        } else {
            lease.state = State::Refused;
            Ok(None)
        }
    }

    /// Whether there is room for a request that arrived at this time. If not, this gateway counts as
    /// waiting for `waits`.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn has_room(
        &self,
        claim: &Claim,
        arrived: Instant,
        waits: Duration,
    ) -> Result<bool, StoreUnavailable> {
        self.ask(claim, "", arrived, waits).await
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
        arrived: Instant,
        waits: Duration,
    ) -> Result<bool, StoreUnavailable> {
        let mut arguments = vec![
            lease.to_owned(),
            self.0.gateway.clone(),
            millis(arrived.elapsed()),
            millis(waits),
            millis(LASTS),
        ];
        arguments.extend(claim.limits.iter().flatten().map(u32::to_string));
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

    /// Renews and releases leases until it is dropped.
    pub async fn run(self) {
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewals = 0;
        loop {
            let is_due = tokio::select! {
                _ = ticks.tick() => true,
                () = self.0.has_released.notified() => false,
            };
            if !is_due {
                self.release().await;
            } else if self.renew().await {
                self.release().await;
                renewals += 1;
                if renewals >= RENEWALS && !self.0.is_sharing.send_replace(true) {
                    tracing::info!("slots are shared again");
                }
            } else {
                renewals = 0;
            }
        }
    }

    /// Sends the releases that wait.
    pub async fn release(&self) {
        let released = std::mem::take(&mut *lock(&self.0.released));
        let rows = released.iter().flat_map(|released| {
            let keys = released.keys.iter().step_by(2);
            keys.map(|key| (key.as_str(), released.lease.as_str()))
        });
        let (keys, arguments) = indexed(Vec::new(), rows);
        if keys.is_empty() {
            return;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let releasing = self.0.redis.run("release", &RELEASE, &keys, &arguments);
        if releasing.await.is_err() {
            // They are sent after the next renewal, or have ended by themselves.
            for released in released {
                self.add_released(released);
            }
        }
        self.0.were_released.notify_one();
    }

    fn add_released(&self, released: Released) {
        let mut waiting = lock(&self.0.released);
        if waiting.len() < RELEASES {
            waiting.push(released);
        }
    }

    /// Renews all leases. Returns whether Redis has answered.
    async fn renew(&self) -> bool {
        let renewed = lock(&self.0.held).clone();
        let held: Vec<(String, &Arc<[String]>)> = renewed
            .iter()
            .map(|(number, keys)| (self.name(*number), keys))
            .collect();
        if held.is_empty() && self.is_sharing() {
            return true;
        }
        let probe = self.0.redis.key("lease:probe", "all");
        let rows = held.iter().flat_map(|(lease, keys)| {
            let keys = keys.iter().step_by(2);
            keys.map(|key| (key.as_str(), lease.as_str()))
        });
        let (keys, mut arguments) = indexed(vec![&*probe], rows);
        arguments.insert(0, millis(LASTS));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let renewing = self.0.redis.run("renew", &RENEW, &keys, &arguments);
        let has_answered = renewing.await.is_ok();
        if !has_answered {
            self.note_failure();
        }
        // One that was released meanwhile, with the lease of the next request, may have been added again.
        let ended: Vec<u64> = {
            let held = lock(&self.0.held);
            let ended = renewed.keys().filter(|number| !held.contains_key(number));
            ended.copied().collect()
        };
        for number in ended {
            if let Some(keys) = renewed.get(&number) {
                self.add_released(Released {
                    keys: keys.clone(),
                    lease: self.name(number),
                });
            }
        }
        has_answered
    }
}

/// The different keys of these rows, behind those that are given, and each row with the index of its key.
fn indexed<'a>(
    mut keys: Vec<&'a str>,
    rows: impl Iterator<Item = (&'a str, &'a str)>,
) -> (Vec<&'a str>, Vec<String>) {
    let mut arguments = Vec::new();
    let mut indices: HashMap<&str, usize> = HashMap::default();
    for (key, lease) in rows {
        let index = *indices.entry(key).or_insert_with(|| {
            keys.push(key);
            keys.len()
        });
        arguments.extend([index.to_string(), lease.to_owned()]);
    }
    (keys, arguments)
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
