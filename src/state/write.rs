//! Writes changes to the file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::changes::{Changes, Counts, Persist, Restored, UsageKey};
use super::late::add_memory;
use super::open::open_file;
use super::store::{Prune, Store, Unusable, UsageRows};
use super::{State, day_number};

/// From the first change to the write.
const DELAY: Duration = Duration::from_millis(500);
/// From a failed write to the next one, and between attempts to open a file that could not be opened.
const RETRY: Duration = Duration::from_secs(5);
/// How often a lasting failure is logged.
const LOG_AGAIN: Duration = Duration::from_secs(600);

/// A thousand years. More days are never removed.
const MOST_DAYS: i64 = 365_000;

/// What the writer works on.
pub(super) struct Writing {
    /// `None` after a failed write, until the writer has opened the file again: the library refuses a
    /// file after an error.
    store: Option<Store>,
    file: Option<PathBuf>,
    unwritten: Changes,
    /// The day before which rows were removed last.
    pruned_before: Option<i32>,
    failure: Option<Failure>,
}

struct Failure {
    logged_at: Instant,
}

/// The usage at one moment.
pub(super) struct UsageNow {
    /// What is written; `None` if nothing is.
    pub(super) written: Option<UsageRows>,
    /// Whether the file is closed, so that nothing of it can be read.
    pub(super) is_closed: bool,
    /// What is not written yet, of the days that were asked for.
    pub(super) unwritten: Vec<(UsageKey, Counts)>,
}

impl Writing {
    pub(super) fn new(store: Store, file: Option<PathBuf>) -> Self {
        Self {
            store: Some(store),
            file,
            unwritten: Changes::default(),
            pruned_before: None,
            failure: None,
        }
    }

    /// From now on this is the file. What was written to memory until now is still to be written.
    pub(super) fn move_to(
        &mut self,
        store: Store,
        file: PathBuf,
        stored: &Restored,
    ) -> Result<(), String> {
        let memory = self.store.replace(store);
        self.file = Some(file);
        self.pruned_before = None;
        let added = memory.map(|memory| add_memory(&mut self.unwritten, &memory, stored));
        added.unwrap_or(Ok(())).map_err(|error| error.to_string())
    }

    pub(super) fn take_changes(&mut self, sources: &[Arc<dyn Persist>]) {
        for source in sources {
            source.take_changes(&mut self.unwritten);
        }
    }

    /// The usage as it is now. Only what is not written yet is copied, so the writer waits for little.
    pub(super) fn usage(&self, from: i32, to: i32) -> Result<UsageNow, String> {
        let written = match &self.store {
            Some(store) => store.usage().map_err(|error| error.to_string())?,
            None => None,
        };
        let rows = self.unwritten.usage.iter();
        let rows = rows.filter(|(row, _)| (from..=to).contains(&row.day));
        Ok(UsageNow {
            written,
            is_closed: self.store.is_none(),
            unwritten: rows.map(|(row, counts)| (row.clone(), *counts)).collect(),
        })
    }

    /// Writes what is not written yet, and returns whether there was anything. If that fails, it is kept
    /// for the next time.
    fn write(&mut self, prune: Prune) -> Result<bool, String> {
        let is_new_day = self.pruned_before != Some(prune.before_day);
        if self.unwritten.is_empty() {
            return Ok(false);
        }
        self.open_again()?;
        let prune_now = is_new_day.then_some(prune);
        let committed = match &self.store {
            Some(store) => store.commit(&self.unwritten, prune_now),
            None => return Ok(false),
        };
        if let Err(error) = committed {
            if self.file.is_some() {
                self.store = None;
                // For queries until the next write. They do not open it, because that checks all of it.
                let _ = self.open_again();
            }
            return Err(error.to_string());
        }
        self.unwritten.clear();
        self.pruned_before = Some(prune.before_day);
        Ok(true)
    }

    #[cfg(test)]
    pub(super) fn close(&mut self) {
        self.store = None;
    }

    /// Opens the file if it was closed after an error.
    fn open_again(&mut self) -> Result<(), String> {
        if let (None, Some(file)) = (&self.store, &self.file) {
            let opened = open_file(file).map_err(|error| error.to_string())?;
            self.store = Some(opened.map_err(|unusable| match unusable {
                Unusable::InUse => "another process uses the file".to_owned(),
                Unusable::Newer(_) => "a newer version has written the file".to_owned(),
                Unusable::Damaged(reason) | Unusable::Io(reason) => reason,
            })?);
        }
        Ok(())
    }
}

impl State {
    /// Writes changes until `stopped`, and once more then.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let stopped = &stopped;
        let pause = async |time| {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = sleep(time) => {}
            }
        };
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stopped.is_cancelled() {
            tokio::select! {
                () = stopped.cancelled() => break,
                () = self.signal.changed() => {}
                _ = retry.tick(), if self.awaits_file() => {
                    self.clone().open_late().await;
                    continue;
                }
            }
            pause(DELAY).await;
            while !self.clone().write().await && !stopped.is_cancelled() {
                pause(RETRY).await;
            }
        }
        self.clone().open_late().await;
        if !self.clone().write().await {
            tracing::warn!("the usage since the last write is lost");
        }
    }

    /// Opens the file, if it could not be opened so far, on a thread that may block.
    async fn open_late(self: Arc<Self>) {
        let opening = tokio::task::spawn_blocking(move || self.open_late_blocking());
        if let Err(error) = opening.await {
            tracing::error!(%error, "opening the state failed");
        }
    }

    /// Writes all changes on a thread that may block. Returns whether it succeeded.
    async fn write(self: Arc<Self>) -> bool {
        let writing = tokio::task::spawn_blocking(move || self.write_blocking());
        writing.await.unwrap_or(false)
    }

    pub(crate) fn write_blocking(&self) -> bool {
        // Before the changes are taken: what comes later sets it again.
        self.signal.clear();
        let mut writing = self.lock_writing();
        let now = Timestamp::now();
        writing.take_changes(&self.sources);
        let prune = Prune {
            before_day: self.oldest_day(),
            ended_by: now.as_second(),
        };
        let result = writing.write(prune);
        self.note(&result, now);
        log(&mut writing, result.as_ref().err());
        result.is_ok()
    }

    /// Tells operators the result of a write.
    fn note(&self, result: &Result<bool, String>, now: Timestamp) {
        let mut health = self.lock_health();
        // The reason for which there is no file stays.
        if health.file.is_none() {
            return;
        }
        match result {
            Ok(true) => (health.problem, health.written_at) = (None, Some(now)),
            Ok(false) => {}
            Err(error) => health.problem = Some(error.clone()),
        }
    }

    /// The oldest day of usage that is kept.
    fn oldest_day(&self) -> i32 {
        let before = i64::from(self.days().saturating_sub(1)).min(MOST_DAYS);
        let oldest = self.today().checked_sub(before.days());
        oldest.map_or(0, day_number)
    }
}

/// Logs the first failure, later ones from time to time, and the end of them.
fn log(writing: &mut Writing, error: Option<&String>) {
    let now = Instant::now();
    match (error, &mut writing.failure) {
        (None, None) => {}
        (None, Some(_)) => {
            writing.failure = None;
            tracing::info!("usage is written again");
        }
        (Some(_), Some(failure)) if now - failure.logged_at < LOG_AGAIN => {}
        (Some(error), _) => {
            writing.failure = Some(Failure { logged_at: now });
            let file = writing.file.as_ref().map(|file| file.display());
            tracing::warn!(
                file = file.map(tracing::field::display),
                error,
                "usage cannot be written; it is kept in memory and tried again every 5 s; a restart \
                 loses it. Free space in the directory, or make it writable"
            );
        }
    }
}
