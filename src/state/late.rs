//! Opens the file later, if it could not be opened at the start: for example because the process that is
//! replaced has not ended yet.

use std::collections::hash_map::Entry;
use std::sync::PoisonError;

use jiff::Timestamp;

use super::changes::Changes;
use super::open::{self, Opened};
use super::store::Store;
use super::{Health, Restored, State};

impl State {
    /// Whether there is a file to wait for.
    pub(super) fn awaits_file(&self) -> bool {
        let awaited = self.awaited.lock();
        awaited.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Opens the file if it could not be opened so far, and adds what was counted since the start to it.
    /// Only one thread may call it.
    pub(crate) fn open_late_blocking(&self) {
        let awaited = self.awaited.lock();
        let awaited = awaited.unwrap_or_else(PoisonError::into_inner).clone();
        let Some(directory) = awaited else { return };
        match open::open(&directory) {
            Ok(opened) => self.merge(opened),
            Err(error) => {
                self.lock_health().problem = Some(error.to_string());
                if error.is_temporary() {
                    return;
                }
                error.log(&directory);
            }
        }
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn merge(&self, opened: Opened) {
        opened.log_put_aside();
        let stored = opened.store.restored_or_nothing();
        let mut writing = self.lock_writing();
        writing.take_changes(&self.sources);
        let path = opened.path;
        let moved = writing.move_to(opened.store, path.clone(), &stored);
        for source in &self.sources {
            source.merge(&stored);
        }
        *self.lock_health() = Health {
            file: Some(path.clone()),
            ..Health::default()
        };
        drop(writing);
        if let Err(error) = moved {
            tracing::warn!(error, "usage since the start is lost");
        }
        tracing::info!(
            file = %path.display(),
            "usage, token budgets and cordons are kept over a restart from now on; those since the start \
             are added"
        );
        self.signal.set();
    }
}

/// Adds what was written to memory to what is not written yet, so that it can be written to a file in
/// which `stored` is.
pub(super) fn add_memory(
    unwritten: &mut Changes,
    memory: &Store,
    stored: &Restored,
) -> Result<(), redb::Error> {
    if let Some(rows) = memory.usage()? {
        rows.read(0, i32::MAX - 1, &mut |day, key, model, counts| {
            let (key, model) = (key.into(), model.into());
            unwritten.add_usage(super::UsageKey { day, key, model }, counts);
        })?;
    }
    for (key, count) in memory.restored()?.windows {
        if let Entry::Vacant(row) = unwritten.windows.entry(key) {
            row.insert(count);
        }
    }
    // The rows replace those of the file, so they begin with what was used there. The limits are told the
    // same.
    let now = Timestamp::now().as_second();
    unwritten.windows.retain(|_, count| count.end > now);
    for (key, before) in &stored.windows {
        if let Some(count) = unwritten.windows.get_mut(key)
            && (before.start..before.end).contains(&now)
        {
            count.used = count.used.saturating_add(before.used);
        }
    }
    Ok(())
}
