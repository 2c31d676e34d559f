//! The tables of the file.

use std::fs::File;

use llamatower_layers::token_limit::Window;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::changes::{COUNTS, Changes, Counts, Restored, WindowCount, WindowKey, add};

/// The format of the tables. A file with a higher number is not touched.
pub(super) const FORMAT: u64 = 1;

/// `format`: the number above.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// By day, key and model.
const USAGE: TableDefinition<'_, (i32, &str, &str), [u64; COUNTS]> = TableDefinition::new("usage");
/// Start, end and used tokens, by limit, account and window.
const WINDOWS: TableDefinition<'_, (&str, &str, &str), (i64, i64, u64)> =
    TableDefinition::new("windows");
/// The names of cordoned servers.
const CORDONS: TableDefinition<'_, &str, ()> = TableDefinition::new("cordons");

/// The memory for parts of the file, in bytes. A query of usage reads each part once.
const CACHE_BYTES: usize = 2 << 20;

/// The windows whose counts are kept.
const KEPT_WINDOWS: [Window; 2] = [Window::Day, Window::Month];

/// The tables, in a file or in memory.
pub(super) struct Store {
    database: Database,
}

/// The rows of usage at one moment. What is written later does not change them.
pub(super) struct UsageRows(ReadOnlyTable<(i32, &'static str, &'static str), [u64; COUNTS]>);

/// What is no longer needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prune {
    /// Usage before this day.
    pub(super) before_day: i32,
    /// Windows that have ended by this time, in seconds since 1970.
    pub(super) ended_by: i64,
}

/// Why a file has no tables that can be used.
pub(super) enum Unusable {
    /// Another process has it open.
    InUse,
    /// A newer version has written it, with this format.
    Newer(String),
    /// Its content makes no sense.
    Damaged(String),
    /// It cannot be read or written.
    Io(String),
}

impl Store {
    /// Tables that end with the process.
    pub(super) fn in_memory() -> Self {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create_with_backend(InMemoryBackend::new());
        Self {
            database: database.expect("memory has no errors"),
        }
    }

    /// The tables in a file, which may be empty. All of it is checked.
    pub(super) fn in_file(file: File) -> Result<Self, Unusable> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        builder.set_check_integrity_on_open(true);
        let opened = FileBackend::new(file).and_then(|file| builder.create_with_backend(file));
        let store = Self {
            database: opened.map_err(|error| Unusable::of(error.into()))?,
        };
        store.check_format()?;
        Ok(store)
    }

    /// Refuses the tables of a newer version.
    fn check_format(&self) -> Result<(), Unusable> {
        match self.format() {
            Ok(Some(found)) if found > FORMAT => Err(Unusable::Newer(found.to_string())),
            // The first write adds the number.
            Ok(_) => Ok(()),
            Err(error) => Err(Unusable::of(error)),
        }
    }

    fn format(&self) -> Result<Option<u64>, redb::Error> {
        let reading = self.database.begin_read()?;
        match reading.open_table(META) {
            Ok(meta) => Ok(meta.get("format")?.map(|number| number.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all changes, or none.
    pub(super) fn commit(
        &self,
        changes: &Changes,
        prune: Option<Prune>,
    ) -> Result<(), redb::Error> {
        let writing = self.database.begin_write()?;
        {
            writing.open_table(META)?.insert("format", FORMAT)?;
            let mut usage = writing.open_table(USAGE)?;
            for (row, more) in &changes.usage {
                let key = (row.day, &*row.key, &*row.model);
                let mut total = usage.get(key)?.map_or([0; COUNTS], |row| row.value());
                add(&mut total, more);
                usage.insert(key, total)?;
            }
            let mut windows = writing.open_table(WINDOWS)?;
            let mut cordons = writing.open_table(CORDONS)?;
            for (row, count) in &changes.windows {
                let key = (&*row.limit, &*row.account, row.window.name());
                windows.insert(key, (count.start, count.end, count.used))?;
            }
            if let Some(prune) = prune {
                usage.retain_in(..(prune.before_day, "", ""), |_, _| false)?;
                windows.retain(|_, (_, end, _)| end > prune.ended_by)?;
            }
            if let Some(names) = &changes.cordons {
                cordons.retain(|_, ()| false)?;
                for name in names {
                    cordons.insert(&**name, ())?;
                }
            }
        }
        Ok(writing.commit()?)
    }

    /// The rows of usage as they are now; `None` if nothing was written yet.
    pub(super) fn usage(&self) -> Result<Option<UsageRows>, redb::Error> {
        match self.database.begin_read()?.open_table(USAGE) {
            Ok(usage) => Ok(Some(UsageRows(usage))),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All that is restored at the start; nothing if it cannot be read, which is logged.
    pub(super) fn restored_or_nothing(&self) -> Restored {
        self.restored().unwrap_or_else(|error| {
            tracing::warn!(%error, "the state of the last run cannot be read");
            Restored::default()
        })
    }

    /// All that is restored at the start.
    pub(super) fn restored(&self) -> Result<Restored, redb::Error> {
        let mut restored = Restored::default();
        let reading = self.database.begin_read()?;
        let windows = match reading.open_table(WINDOWS) {
            Ok(windows) => windows,
            // Nothing was written yet.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(restored),
            Err(error) => return Err(error.into()),
        };
        for row in windows.iter()? {
            let (key, count) = row?;
            let (limit, account, window) = key.value();
            let (start, end, used) = count.value();
            let mut kept = KEPT_WINDOWS.into_iter();
            let Some(window) = kept.find(|kept| kept.name() == window) else {
                continue;
            };
            let key = WindowKey {
                limit: limit.into(),
                account: account.to_owned(),
                window,
            };
            restored
                .windows
                .push((key, WindowCount { start, end, used }));
        }
        for row in reading.open_table(CORDONS)?.iter()? {
            restored.cordons.push(row?.0.value().into());
        }
        Ok(restored)
    }
}

impl UsageRows {
    /// Passes the rows from the day `from` to the day `to` to `each`, in the order of day, key and model.
    pub(super) fn read(
        &self,
        from: i32,
        to: i32,
        each: &mut dyn FnMut(i32, &str, &str, &Counts),
    ) -> Result<(), redb::Error> {
        if from > to {
            return Ok(());
        }
        for row in self
            .0
            .range((from, "", "")..(to.saturating_add(1), "", ""))?
        {
            let (key, counts) = row?;
            let (day, key, model) = key.value();
            each(day, key, model, &counts.value());
        }
        Ok(())
    }
}

impl Unusable {
    fn of(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse,
            redb::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => {
                Self::Io(error.to_string())
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}
