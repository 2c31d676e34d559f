//! Accounting: what each key has used of each model on each day.
//!
//! [`Usage`] observes the ends of requests that run a model, and adds them to counts in memory, which
//! [`State`](crate::state::State) writes to its file. [`Query`] sums them up for operators.
//!
//! The number of rows is bounded: a key is one of the configured names, one of a limited number of its
//! users each day, or [`ANONYMOUS`]; a model is one that a server has answered for, or
//! [`OTHER`](crate::telemetry::names::OTHER).

mod counts;
mod export;
mod models;
mod query;
#[cfg(test)]
mod tests;
mod users;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use llamatower_layers::{Observer, Operation, Outcome};

pub use counts::UsageCounts;
pub use export::to_csv;
pub use query::{Format, GroupBy, Period, Query, QueryError, Sums, SumsKey};

use crate::state::{ChangeSignal, Changes, Counts, Persist, UsageKey, day_number};
use crate::telemetry::FleetView;
use crate::telemetry::names::ANONYMOUS;
use models::Models;
use users::Users;

/// So many threads can count requests at the same time.
const SHARDS: usize = 8;

/// Counts what requests use. It is an [`Observer`] of outcomes.
pub struct Usage {
    zone: TimeZone,
    models: Models,
    users: Users,
    anonymous: Arc<str>,
    signal: ChangeSignal,
    shards: [Shard; SHARDS],
}

/// The counts of some threads. Each is on its own cache line.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Pending>);

/// Counts that were not taken yet.
#[derive(Default)]
struct Pending {
    today: Day,
    rows: HashMap<UsageKey, Counts>,
}

/// A day, from its first second to its end, both in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Day {
    start: i64,
    end: i64,
    number: i32,
}

impl Usage {
    /// Days begin at midnight in `zone`. The signal is set when there is something to write.
    pub fn new(zone: TimeZone, signal: ChangeSignal) -> Self {
        Self {
            zone,
            models: Models::default(),
            users: Users::default(),
            anonymous: ANONYMOUS.into(),
            signal,
            shards: Default::default(),
        }
    }

    /// Gives a model of this fleet its own row also if no server has answered for it. Only the first
    /// call has an effect.
    pub fn observe(&self, fleet: Arc<dyn FleetView>) {
        self.models.set_fleet(fleet);
    }

    /// Counts a request that has ended now, if it ran a model.
    pub(crate) fn count(&self, outcome: &Outcome, now: Timestamp) {
        if outcome.operation().is_some_and(Operation::is_inference) {
            self.add(outcome, now.as_second());
        }
    }

    fn add(&self, outcome: &Outcome, now: i64) {
        let counts = UsageCounts::of(outcome).to_array();
        let model = self.models.row(outcome);
        let key = outcome.identity.as_ref().unwrap_or(&self.anonymous).clone();
        let mut pending = self.shards[shard_of_thread()].lock();
        if !pending.today.contains(now) {
            pending.today = Day::at(now, &self.zone);
        }
        let day = pending.today.number;
        let key = self.users.row(key, day);
        let row = pending.rows.entry(UsageKey { day, key, model });
        crate::state::add(row.or_default(), &counts);
        drop(pending);
        self.signal.set();
    }
}

impl Observer for Usage {
    fn finished(&self, outcome: &Outcome) {
        self.count(outcome, Timestamp::now());
    }
}

impl Persist for Usage {
    fn take_changes(&self, changes: &mut Changes) {
        for shard in &self.shards {
            let rows = std::mem::take(&mut shard.lock().rows);
            for (key, counts) in rows {
                changes.add_usage(key, &counts);
            }
        }
    }
}

impl std::fmt::Debug for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usage").finish_non_exhaustive()
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads are given the shards in turn.
fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

impl Day {
    fn contains(self, second: i64) -> bool {
        (self.start..self.end).contains(&second)
    }

    /// The day of this second. At the limits of time a day has no bounds.
    fn at(second: i64, zone: &TimeZone) -> Self {
        let now = Timestamp::from_second(second).unwrap_or_default();
        let date = zone.to_datetime(now).date();
        let begin = |date: Date| {
            let begin = date.to_zoned_datetime(zone.clone()).ok()?;
            Some(begin.timestamp().as_second())
        };
        Self {
            start: begin(date).unwrap_or(i64::MIN),
            end: date.tomorrow().ok().and_then(begin).unwrap_or(i64::MAX),
            number: day_number(date),
        }
    }
}
