//! What is kept over a restart: usage, token windows, and the servers that are cordoned.
//!
//! It is in one file of a directory (`LLAMATOWER_STATE_DIR`), an embedded database ([redb]). Requests
//! only change values in memory. A task writes the changes half a second after the first one, in one
//! transaction on a thread of its own, so a crash loses less than a second.
//!
//! ```text
//! requests ── Usage, MemoryStore, Cordons ── take_changes ──▶ State ── commit ──▶ state.redb
//!                     (memory)                 after 0.5 s     └ unwritten, if that fails
//! ```
//!
//! Without a directory, or if the file cannot be used, the same tables are in memory and end with the
//! process. The gateway serves in either case.

mod changes;
mod cordons;
mod late;
mod open;
mod signal;
mod store;
#[cfg(test)]
mod tests;
mod windows;
mod write;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

pub use changes::{
    COUNTS, Changes, Counts, Persist, Restored, UsageKey, WindowCount, WindowKey, add,
};
pub use cordons::KeptCordons;
pub use signal::ChangeSignal;
pub use windows::{AccountText, Windows};

use store::Store;
use write::Writing;

/// Days of usage that are kept in memory, without a file.
pub(crate) const DAYS_IN_MEMORY: u32 = 31;

/// Where and for how long.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The directory of the file; `None` to keep everything in memory only.
    pub directory: Option<PathBuf>,
    /// The number of days of usage, today included.
    pub days: u32,
    /// The time zone in which days begin at midnight.
    pub zone: TimeZone,
}

/// What is kept over a restart.
pub struct State {
    /// The number of days of usage that are kept with a file.
    days: u32,
    zone: TimeZone,
    signal: ChangeSignal,
    sources: Vec<Arc<dyn Persist>>,
    /// The directory of a file that could not be opened yet, and is tried again.
    awaited: Mutex<Option<PathBuf>>,
    /// Used on threads that may block.
    writing: Mutex<Writing>,
    health: Mutex<Health>,
}

/// Whether the state is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The file; `None` if everything is in memory only.
    pub file: Option<PathBuf>,
    /// Why it is in memory only although a directory is set, or why changes cannot be written.
    pub problem: Option<String>,
    /// The time of the last write.
    pub written_at: Option<Timestamp>,
}

impl Health {
    /// Whether there is a file, and changes can be written to it.
    pub fn is_kept(&self) -> bool {
        self.file.is_some() && self.problem.is_none()
    }
}

impl State {
    /// Opens the file, logs whether there is one, and restores what is in it. Changes of `sources` are
    /// written once [`run`](Self::run) runs.
    pub async fn open(
        config: StateConfig,
        signal: ChangeSignal,
        sources: Vec<Arc<dyn Persist>>,
    ) -> Arc<Self> {
        let opening = move || Self::open_blocking(config, signal, sources);
        let opened = tokio::task::spawn_blocking(opening).await;
        opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    pub(crate) fn open_blocking(
        config: StateConfig,
        signal: ChangeSignal,
        sources: Vec<Arc<dyn Persist>>,
    ) -> Arc<Self> {
        let Found {
            store,
            health,
            awaited,
        } = open_and_log(config.directory);
        let restored = store.restored_or_nothing();
        for source in &sources {
            source.restore(&restored);
        }
        Arc::new(Self {
            days: config.days,
            zone: config.zone,
            signal,
            sources,
            awaited: Mutex::new(awaited),
            writing: Mutex::new(Writing::new(store, health.file.clone())),
            health: Mutex::new(health),
        })
    }

    /// Whether the state is kept, for operators.
    pub fn health(&self) -> Health {
        self.lock_health().clone()
    }

    /// The number of days of usage that are kept.
    pub fn days(&self) -> u32 {
        match self.lock_health().file {
            Some(_) => self.days,
            None => self.days.min(DAYS_IN_MEMORY),
        }
    }

    /// The time zone of the days.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Today in the time zone of the days.
    pub fn today(&self) -> Date {
        self.zone.to_datetime(Timestamp::now()).date()
    }

    /// Passes the counts of all keys and models of these days to `each`, also those that are not
    /// written yet. A row can come in several parts. Returns whether these are all: if the file could not
    /// be opened again after a failed write, they are only those that are not written. It reads the file,
    /// so it blocks. Writes go on meanwhile.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn usage(
        &self,
        from: Date,
        to: Date,
        mut each: impl FnMut(i32, &str, &str, &Counts),
    ) -> Result<bool, String> {
        let (from, to) = (day_number(from), day_number(to));
        let mut writing = self.lock_writing();
        writing.take_changes(&self.sources);
        let now = writing.usage(from, to)?;
        drop(writing);
        if let Some(rows) = now.written {
            let read = rows.read(from, to, &mut each);
            read.map_err(|error| error.to_string())?;
        }
        for (row, counts) in &now.unwritten {
            each(row.day, &row.key, &row.model, counts);
        }
        Ok(!now.is_closed)
    }

    /// Moves the changes of all sources to those that are not written yet. It waits for a write, so it
    /// blocks.
    pub fn take_changes(&self) {
        self.lock_writing().take_changes(&self.sources);
    }

    fn lock_writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// A day as a number that sorts, like 20261130.
pub fn day_number(date: Date) -> i32 {
    i32::from(date.year()) * 10_000 + i32::from(date.month()) * 100 + i32::from(date.day())
}

/// The tables at the start.
struct Found {
    store: Store,
    health: Health,
    /// The directory, if the file may be opened later.
    awaited: Option<PathBuf>,
}

fn open_and_log(directory: Option<PathBuf>) -> Found {
    let in_memory = |problem, awaited| Found {
        store: Store::in_memory(),
        health: Health {
            problem,
            ..Health::default()
        },
        awaited,
    };
    let Some(directory) = directory else {
        tracing::info!(
            "usage, token budgets and cordons are not kept over a restart: to keep them, set \
             LLAMATOWER_STATE_DIR to a directory that the gateway can write"
        );
        return in_memory(None, None);
    };
    match open::open(&directory) {
        Ok(opened) => {
            opened.log_put_aside();
            let file = opened.path.display();
            tracing::info!(%file, "usage, token budgets and cordons are kept over a restart");
            Found {
                store: opened.store,
                health: Health {
                    file: Some(opened.path),
                    ..Health::default()
                },
                awaited: None,
            }
        }
        Err(error) => {
            error.log(&directory);
            let awaited = error.is_temporary().then_some(directory);
            in_memory(Some(error.to_string()), awaited)
        }
    }
}
