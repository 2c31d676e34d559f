//! Watches the files that the settings were read from.
//!
//! A thread reads the files a few times a second and compares their content. This also sees what
//! notifications of the file system miss or report for another path: an editor that renames a new
//! file over the old one, the symbolic link that Kubernetes replaces (`..data`), and network file
//! systems. The files are small, so that it costs little. A thread of its own may wait for a disk
//! that does not respond.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use crate::settings::FilesRead;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_millis(150);

/// How many times in a row the same new content must be seen, so that a file that is still being
/// written is not read. Together with the interval, a change is seen after at most half a second.
const STABLE_READS: u32 = 3;

/// Reports that files have changed.
#[derive(Debug)]
pub struct Watch {
    state: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The files as they were read last.
    read: Mutex<FilesRead>,
    changed: Notify,
}

impl Watch {
    /// Watches these files from now on, until it is dropped.
    ///
    /// # Errors
    /// There can be no further thread.
    pub fn start(read: FilesRead) -> io::Result<Self> {
        let state = Arc::new(Shared {
            read: Mutex::new(read),
            changed: Notify::new(),
        });
        let watched = Arc::downgrade(&state);
        let mut settling = Settling::default();
        let watching = thread::Builder::new().name("watch-files".to_owned());
        watching.spawn(move || {
            loop {
                thread::sleep(INTERVAL);
                let Some(state) = watched.upgrade() else {
                    return;
                };
                let read = state.read().clone();
                if settling.is_settled(&read, read.now()) {
                    state.changed.notify_one();
                }
            }
        })?;
        Ok(Self { state })
    }

    /// Waits until a file has another content than when it was read, and does not change any more.
    pub async fn changed(&self) {
        self.state.changed.notified().await;
    }

    /// Compares with these files from now on.
    pub fn set(&self, read: FilesRead) {
        *self.state.read() = read;
    }
}

impl Shared {
    fn read(&self) -> std::sync::MutexGuard<'_, FilesRead> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until changed content stays the same.
#[derive(Debug, Default)]
struct Settling {
    seen: FilesRead,
    times: u32,
}

impl Settling {
    /// Whether the content `now` differs from what was read, and was the same the last times.
    fn is_settled(&mut self, read: &FilesRead, now: FilesRead) -> bool {
        if *read == now {
            *self = Self::default();
            return false;
        }
        if self.seen != now {
            *self = Self {
                seen: now,
                times: 0,
            };
        }
        self.times = self.times.saturating_add(1);
        // Later ones, too: what was found in the meantime may have been incomplete.
        self.times >= STABLE_READS
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::settings::{Environment, Settings};

    #[test]
    fn content_counts_once_it_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("llamatower.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("");
        let loaded = Settings::load(Some(&file), &Environment::from_iter([("", ""); 0]));
        let read = loaded.unwrap().files;
        let mut settling = Settling::default();
        let mut is_settled = || settling.is_settled(&read, read.now());
        for part in [
            "[limits]",
            "[limits]\nrate = \"1",
            "[limits]\nrate = \"1/h\"\n",
        ] {
            write(part);
            assert!(!is_settled(), "{part:?} is new");
            assert!(!is_settled());
        }
        assert!(is_settled(), "seen three times");
        // The gateway may have found that it had changed again while it was read.
        assert!(is_settled());
        std::fs::remove_file(&file).unwrap();
        assert!(!is_settled(), "it may be about to be replaced");
        write("");
        assert!(!is_settled(), "it is as it was read");
        std::fs::remove_file(&file).unwrap();
        assert!(!is_settled());
        assert!(!is_settled());
        assert!(is_settled(), "it is gone");
    }
}
