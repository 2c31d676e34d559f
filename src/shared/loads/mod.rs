//! The loads of models that gateways begin, known to all of them through Redis.
//!
//! ```text
//! load ── take ──▶ Redis: does another gateway load it? ── no: the load is noted, and begins
//!                                                       └─ yes: the gateway learns where, and chooses anew
//! each second: own loads ── exchange ──▶ Redis       the loads of the others ◀──
//! ```
//!
//! An entry ends 5 s after its last renewal, so the load of a gateway that was killed counts no more.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llamatower_layers::redis::{Redis, RedisScript};
use llamatower_layers::store::StoreUnavailable;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

static TAKE: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("take.lua")));
static EXCHANGE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("exchange.lua")));

/// The time that an entry lasts after it was noted or renewed.
const LASTS: Duration = Duration::from_secs(5);
/// The time between two exchanges, and while a load is in progress.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_DURING_LOADS: Duration = Duration::from_millis(250);
/// Between the names of a server and of a model, which have no such character.
const SEPARATOR: char = '\u{1f}';

/// The loads of this gateway. Clones share them.
#[derive(Clone)]
pub struct Loads(Arc<Inner>);

struct Inner {
    redis: Redis,
    key: String,
    gateway: String,
    /// Those in progress, and those that have ended since the last exchange.
    own: Mutex<Vec<Own>>,
    last_number: AtomicU64,
    started: Instant,
    /// A load has ended, or one of another gateway was found.
    changed: Notify,
}

#[derive(Clone, Debug, PartialEq)]
struct Own {
    name: String,
    number: u64,
    began: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InProgress,
    Complete,
    Failed,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::InProgress => "0",
            Self::Complete => "1",
            Self::Failed => "-",
        }
    }
}

/// A load by another gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadElsewhere {
    /// The name of the server.
    pub server: String,
    /// The full name of the model.
    pub model: String,
    /// What tells it from later loads of the same model there.
    pub id: String,
    /// When it began.
    pub since: Instant,
    /// The model is in memory.
    pub is_complete: bool,
}

impl LoadElsewhere {
    /// A row of an answer of the scripts.
    fn parse([server, model, id, age, state]: &[String; 5], now: Instant) -> Option<Self> {
        let age = Duration::from_millis(age.parse().ok()?);
        Some(Self {
            server: server.clone(),
            model: model.clone(),
            id: id.clone(),
            since: now.checked_sub(age).unwrap_or(now),
            is_complete: state == State::Complete.text(),
        })
    }

    fn parse_all(rows: &[String]) -> Vec<Self> {
        let now = Instant::now();
        let rows = rows.as_chunks().0.iter();
        rows.filter_map(|row| Self::parse(row, now)).collect()
    }
}

/// Which loads by others make an own one needless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those on the same server.
    Server,
    /// Those of the same model too, on any server.
    Model,
}

/// Whether a load may begin.
#[derive(Debug)]
pub enum BeginLoad {
    /// It may.
    Yes(OwnLoad),
    /// Another gateway has begun one that this gateway did not know. These are all loads of the others.
    Elsewhere(Vec<LoadElsewhere>),
}

/// A load that this gateway has noted. Dropping it says that the load has failed.
pub struct OwnLoad {
    loads: Loads,
    name: String,
    number: u64,
    began: Instant,
}

impl Loads {
    pub(super) fn new(redis: Redis) -> Self {
        Self(Arc::new(Inner {
            key: redis.key("loads", "all"),
            redis,
            gateway: Uuid::new_v4().to_string(),
            own: Mutex::default(),
            last_number: AtomicU64::new(0),
            started: Instant::now(),
            changed: Notify::new(),
        }))
    }

    /// Notes that a load of `model` on `server` begins, unless another gateway has begun one that is not
    /// among the `known` ones.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn begin(
        &self,
        server: &str,
        model: &str,
        scope: Scope,
        known: &[LoadElsewhere],
    ) -> Result<BeginLoad, StoreUnavailable> {
        let name = name_of(server, model);
        // Dropped with this future, it takes back what Redis may have noted.
        let own = OwnLoad {
            loads: self.clone(),
            name,
            number: self.0.last_number.fetch_add(1, Ordering::Relaxed) + 1,
            began: Instant::now(),
        };
        let scope = match scope {
            Scope::Server => "0",
            Scope::Model => "1",
        };
        let lasts = LASTS.as_millis().to_string();
        let known = known.iter().map(|load| {
            let state = u8::from(load.is_complete);
            format!("{}{SEPARATOR}{state}", name_of(&load.server, &load.model))
        });
        let known: Vec<String> = known.collect();
        let number = own.number.to_string();
        let mut arguments = vec![&*self.0.gateway, &*number, server, model, &*lasts, scope];
        arguments.extend(known.iter().map(String::as_str));
        let redis = &self.0.redis;
        let answer = redis
            .run("load", &TAKE, &[&*self.0.key], &arguments)
            .await?;
        match answer.split_first() {
            Some((is_free, others)) if is_free != "1" => {
                own.forget();
                self.0.changed.notify_one();
                Ok(BeginLoad::Elsewhere(LoadElsewhere::parse_all(others)))
            }
            _ => {
                own.set(State::InProgress);
                Ok(BeginLoad::Yes(own))
            }
        }
    }

    /// Waits for the connection if the gateway has started within the last 5 s: it may not be connected yet.
    pub async fn connected(&self) {
        let _ = timeout_at(self.0.started + LASTS, self.0.redis.connected()).await;
    }

    /// Exchanges loads until it is dropped. `tell` gets all loads of the other gateways each time; none if
    /// Redis has not answered for as long as entries last.
    pub async fn run(self, tell: impl Fn(Vec<LoadElsewhere>)) {
        let mut answered = Instant::now();
        loop {
            let others = self.exchange().await;
            let is_busy = others
                .as_ref()
                .is_ok_and(|others| !others.is_empty() || !self.lock().is_empty());
            match others {
                Ok(others) => {
                    answered = Instant::now();
                    tell(others);
                }
                Err(_) if answered.elapsed() >= LASTS => tell(Vec::new()),
                Err(_) => {}
            }
            let pause = match is_busy {
                true => EVERY_DURING_LOADS,
                false => EVERY,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    async fn exchange(&self) -> Result<Vec<LoadElsewhere>, StoreUnavailable> {
        let told = self.lock().clone();
        let mut arguments = vec![self.0.gateway.clone(), LASTS.as_millis().to_string()];
        for own in &told {
            let age = own.began.elapsed().as_millis().to_string();
            let (number, state) = (own.number.to_string(), own.state.text().to_owned());
            arguments.extend([own.name.clone(), number, age, state]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let key = [&*self.0.key];
        let answer = self
            .0
            .redis
            .run("loads", &EXCHANGE, &key, &arguments)
            .await?;
        self.lock()
            .retain(|own| own.state == State::InProgress || !told.contains(own));
        Ok(LoadElsewhere::parse_all(&answer))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Own>> {
        self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnLoad {
    /// The model is in memory.
    pub fn complete(self) {
        self.set(State::Complete);
        self.forget();
    }

    fn set(&self, state: State) {
        let mut own = self.loads.lock();
        own.retain(|load| load.number != self.number);
        own.push(Own {
            name: self.name.clone(),
            number: self.number,
            began: self.began,
            state,
        });
        drop(own);
        if state != State::InProgress {
            self.loads.0.changed.notify_one();
        }
    }

    /// Drops it without saying that it has failed.
    fn forget(mut self) {
        self.name.clear();
    }
}

impl Drop for OwnLoad {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.set(State::Failed);
        }
    }
}

fn name_of(server: &str, model: &str) -> String {
    format!("{server}{SEPARATOR}{model}")
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loads")
            .field("own", &*self.lock())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for OwnLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnLoad")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_layers::redis::RedisConfig;

    use super::*;

    #[tokio::test]
    async fn a_load_that_is_dropped_leaves_a_later_one_of_the_same_model() {
        // Nothing is sent.
        let config = RedisConfig::new("redis://127.0.0.1:1".parse().unwrap());
        let loads = Loads::new(Redis::start(config));
        let load = |number| OwnLoad {
            loads: loads.clone(),
            name: name_of("gpu", "tiny"),
            number,
            began: Instant::now(),
        };
        let (first, second) = (load(1), load(2));
        first.set(State::InProgress);
        second.set(State::InProgress);
        drop(first);
        let states = || -> Vec<_> {
            let own = loads.lock();
            own.iter().map(|load| (load.number, load.state)).collect()
        };
        assert_eq!(states(), [(2, State::InProgress), (1, State::Failed)]);
        second.complete();
        assert_eq!(states(), [(1, State::Failed), (2, State::Complete)]);
    }
}
