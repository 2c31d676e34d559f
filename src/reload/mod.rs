//! Reloads the settings while the gateway serves: at SIGHUP, and when a file has changed.
//!
//! All settings are read as at start, from the same sources. If there is any error, all old
//! settings stay in force. Otherwise the [`RELOADABLE`] settings apply to new requests; requests in
//! flight keep the old ones. Other changed settings are logged, because they need a restart.

mod expiry;
mod in_force;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::live::{LastReload, LiveSettings, RELOADABLE};
use crate::settings::{
    DeclaredModels, EffectiveSetting, Environment, FilesRead, KeysFile, Loaded, Settings,
    SettingsError,
};
use crate::telemetry::{LogFilter, Metrics};

use expiry::ToldExpiry;

pub use expiry::INTERVAL as EXPIRY_INTERVAL;
pub use in_force::{ChangedSetting, Difference, InForce};
pub use watch::Watch;

/// The variable of the keys file.
const KEYS_FILE: &str = "LLAMATOWER_KEYS_FILE";

/// The variable of the log filter.
const LOG: &str = "LLAMATOWER_LOG";

/// How often the settings are read again at SIGHUP if a file changes while they are read, and how
/// long to wait before.
const READS: u32 = 5;
const BETWEEN_READS: Duration = Duration::from_millis(100);

/// Reloads settings.
#[derive(Debug)]
pub struct Reloader {
    config: Option<PathBuf>,
    live: LiveSettings,
    /// The settings in force.
    effective: Vec<EffectiveSetting>,
    declared: Arc<DeclaredModels>,
    keys_file: Arc<KeysFile>,
    told_expiry: ToldExpiry,
    log_filter: LogFilter,
    /// What the digests of the settings in force begin with.
    salt: String,
    /// The files as they were read last, whether or not they could be applied.
    files: FilesRead,
    watch: Option<Watch>,
}

/// Why the settings are reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operator has sent SIGHUP.
    Signal,
    /// A file has changed.
    File,
}

impl Cause {
    /// A word for logs and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "file",
        }
    }
}

/// Settings that were read, or the errors in them, and whether the files have changed since.
struct Read {
    loaded: Result<Loaded, SettingsError>,
    is_current: bool,
}

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The variables of changed settings that are in force now, and `[models]` if that has changed.
    pub applied: Vec<&'static str>,
    /// The variables of changed settings that need a restart.
    pub need_restart: Vec<&'static str>,
    /// The names of added keys.
    pub added_keys: BTreeSet<Arc<str>>,
    /// The names of removed keys.
    pub removed_keys: BTreeSet<Arc<str>>,
    /// The names of keys that are in the keys file before and after, with other values.
    pub changed_keys: BTreeSet<Arc<str>>,
    /// Reloadable settings that come from environment variables, which do not change while the
    /// process runs.
    pub fixed: Vec<&'static str>,
    /// The warnings of `llamatower check`.
    pub warnings: Vec<String>,
}

impl Reloader {
    /// For a gateway that was started with the settings `loaded` from the file `config`.
    pub fn new(
        config: Option<PathBuf>,
        loaded: &Loaded,
        live: LiveSettings,
        log_filter: LogFilter,
    ) -> Self {
        let salt = Uuid::new_v4().simple().to_string();
        let in_force = InForce::new(&loaded.effective, &loaded.settings, &salt);
        live.in_force.set(in_force);
        Self {
            salt,
            log_filter,
            config,
            live,
            effective: loaded.effective.clone(),
            declared: loaded.settings.declared.clone(),
            keys_file: loaded.settings.keys_file.clone(),
            told_expiry: ToldExpiry::new(&loaded.settings.keys_file),
            files: loaded.files.clone(),
            watch: watch(loaded),
        }
    }

    /// Waits until a file has changed; for ever if files are not watched.
    pub async fn file_changed(&self) {
        match &self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Logs the keys that have expired, or that expire soon, since the last call.
    pub fn tell_expiry(&mut self) {
        self.told_expiry.tell(&self.keys_file);
    }

    /// Applies the reloadable ones of these settings.
    ///
    /// # Errors
    /// The last key would be removed. Then nothing has changed.
    pub fn reload(&mut self, loaded: Loaded) -> Result<Reloaded, String> {
        let old_keys = self.names_of_keys();
        self.live.apply(&loaded.settings)?;
        let new_keys = self.names_of_keys();
        let mut reloaded = Reloaded {
            added_keys: &new_keys - &old_keys,
            removed_keys: &old_keys - &new_keys,
            warnings: loaded.all_warnings().map(ToString::to_string).collect(),
            ..Reloaded::default()
        };
        for (old, new) in self.effective.iter_mut().zip(loaded.effective) {
            let variable = new.setting.variable;
            let is_reloadable = RELOADABLE.contains(&new.setting.key);
            // What the variable names can change, although the variable cannot.
            if is_reloadable && new.source == variable && variable != KEYS_FILE {
                reloaded.fixed.push(variable);
            }
            if old.is_same_value(&new) {
                continue;
            }
            match is_reloadable {
                true => {
                    reloaded.applied.push(variable);
                    *old = new;
                }
                false => reloaded.need_restart.push(variable),
            }
        }
        if reloaded.applied.contains(&LOG) {
            let log = &loaded.settings.telemetry.log;
            if let Err(error) = self.log_filter.set(log) {
                tracing::error!(%error, "the filter of the log stays as it was");
            }
        }
        let in_force = InForce::new(&self.effective, &loaded.settings, &self.salt);
        self.live.in_force.set(in_force);
        if self.keys_file != loaded.settings.keys_file {
            reloaded.changed_keys = changed_keys(&self.keys_file, &loaded.settings.keys_file);
            self.keys_file = loaded.settings.keys_file;
            self.told_expiry = ToldExpiry::new(&self.keys_file);
            if !reloaded.applied.contains(&KEYS_FILE) {
                reloaded.applied.push(KEYS_FILE);
            }
        }
        if self.declared != loaded.settings.declared {
            self.declared = loaded.settings.declared;
            reloaded.applied.push("[models]");
        }
        Ok(reloaded)
    }

    /// Reads all settings again, applies the reloadable ones, logs the result and counts it.
    ///
    /// If the cause is a changed file, nothing happens if the files were read already, or if they
    /// change again in the meantime: then there will be another call.
    pub async fn reload_and_log(&mut self, cause: Cause, metrics: &Metrics) {
        let loaded = match cause {
            Cause::Signal => self.load_at_once().await,
            Cause::File => self.load_changed().await,
        };
        let Some(loaded) = loaded else {
            return;
        };
        let reloaded = loaded.and_then(|loaded| self.reload(loaded));
        let mut last = LastReload::new(Timestamp::now(), cause, &reloaded);
        if let (Some(earlier), true) = (self.live.last_reload.get().as_ref(), reloaded.is_err()) {
            last.need_restart.clone_from(&earlier.need_restart);
        }
        self.live.last_reload.set(Some(last));
        metrics.reloaded(reloaded.is_ok());
        self.live.begin_counters(metrics);
        match reloaded {
            Ok(reloaded) => reloaded.log(cause),
            Err(error) => tracing::error!(
                error,
                cause = cause.name(),
                "reloading the settings failed; the old settings stay in force"
            ),
        }
    }

    /// Reads the settings. If a file changes meanwhile, they are read again.
    async fn load_at_once(&mut self) -> Option<Result<Loaded, String>> {
        for _ in 1..READS {
            match self.load().await {
                Ok(read) if !read.is_current => tokio::time::sleep(BETWEEN_READS).await,
                Ok(read) => return Some(self.seen(read)),
                Err(error) => return Some(Err(error)),
            }
        }
        let read = self.load().await;
        Some(read.and_then(|read| self.seen(read)))
    }

    /// Reads the settings because a file has changed; `None` if that is not so, or if a file still
    /// changes.
    async fn load_changed(&mut self) -> Option<Result<Loaded, String>> {
        match self.load().await {
            Ok(read) if !read.is_current || *read.files() == self.files => None,
            Ok(read) => Some(self.seen(read)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Compares files with these from now on.
    fn seen(&mut self, read: Read) -> Result<Loaded, String> {
        self.files = read.files().clone();
        if let Some(watch) = &self.watch {
            watch.set(self.files.clone());
        }
        read.loaded.map_err(|error| error.to_string())
    }

    /// Reads all settings in a thread of their own: a file may be on a disk that does not respond.
    async fn load(&self) -> Result<Read, String> {
        let (sender, receiver) = oneshot::channel();
        let config = self.config.clone();
        std::thread::spawn(move || {
            let loaded = Settings::load(config.as_deref(), &Environment::of_process());
            let mut read = Read {
                loaded,
                is_current: true,
            };
            read.is_current = *read.files() == read.files().now();
            let _ = sender.send(read);
        });
        let loaded = receiver.await;
        loaded.map_err(|_| "the settings could not be read: internal error".to_owned())
    }

    fn names_of_keys(&self) -> BTreeSet<Arc<str>> {
        let keys = self.live.keys.get();
        keys.identities().map(|key| key.name.clone()).collect()
    }
}

impl Read {
    fn files(&self) -> &FilesRead {
        match &self.loaded {
            Ok(loaded) => &loaded.files,
            Err(error) => error.files(),
        }
    }
}

/// Watches the files of these settings, if that is wanted.
fn watch(loaded: &Loaded) -> Option<Watch> {
    if !loaded.settings.config.watch_files || loaded.files.is_empty() {
        return None;
    }
    let watch = Watch::start(loaded.files.clone());
    watch
        .inspect_err(|error| {
            tracing::warn!(%error, "files are not watched; reload the settings with SIGHUP");
        })
        .ok()
}

impl Reloaded {
    fn log(&self, cause: Cause) {
        let is_of_file = cause == Cause::File;
        let cause = cause.name();
        let (added, removed) = (list(&self.added_keys), list(&self.removed_keys));
        let changed_keys = list(&self.changed_keys);
        match self.applied.is_empty() {
            false => tracing::info!(
                cause,
                changed = self.applied.join(", "),
                keys_added = added,
                keys_removed = removed,
                keys_changed = changed_keys,
                "settings reloaded"
            ),
            // Whoever sends a signal may have changed a variable.
            true if self.fixed.is_empty() || is_of_file => {
                tracing::info!(cause, "settings reloaded: no key or limit has changed");
            }
            true => tracing::info!(
                cause,
                need_restart = self.fixed.join(", "),
                "settings reloaded: no key or limit has changed; environment variables need a restart"
            ),
        }
        if !self.need_restart.is_empty() {
            tracing::warn!(
                settings = self.need_restart.join(", "),
                "these settings have changed and need a restart"
            );
        }
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// The names of keys that are in both files with other values.
fn changed_keys(old: &KeysFile, new: &KeysFile) -> BTreeSet<Arc<str>> {
    let kept = old.keys.iter().filter(|(name, entry)| {
        let now = new.keys.get(*name);
        now.is_some_and(|now| now != *entry)
    });
    kept.map(|(name, _)| name.clone()).collect()
}

/// A comma-separated list; `None` if there is nothing.
fn list(names: &BTreeSet<Arc<str>>) -> Option<String> {
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
