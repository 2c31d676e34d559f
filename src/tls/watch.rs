//! The certificate in force, and the watch of its files.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use llamatower_layers::live::Live;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};

use super::files::{Contents, TlsError, TlsFile, TlsFiles};
use super::server::TlsServer;
use super::status::{LastLoad, TlsStatus};

/// The time between two looks at the files.
const INTERVAL: Duration = Duration::from_millis(400);
/// The time between two warnings of a certificate that expires soon or has expired.
const DAY: Duration = Duration::from_hours(24);

/// The certificate in force. Clones share it.
#[derive(Clone, Debug)]
pub struct Certificates {
    files: Arc<TlsFiles>,
    current: Live<Arc<TlsServer>>,
    last_load: Live<Option<LastLoad>>,
    /// The contents in force.
    contents: Contents,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let contents = files.read()?;
        Ok(Self {
            current: Live::new(Arc::new(TlsServer::new(&files, &contents)?)),
            files: Arc::new(files),
            last_load: Live::default(),
            contents,
        })
    }

    /// What is wrong with the certificate at present, although it can be used.
    pub fn warning(&self) -> Option<String> {
        self.current().validity.warning(Timestamp::now())
    }

    /// What new connections are accepted with.
    pub(crate) fn current(&self) -> Arc<TlsServer> {
        self.current.get().clone()
    }

    /// The state of TLS.
    pub fn status(&self) -> TlsStatus {
        TlsStatus {
            expires_at: self.current().validity.not_after,
            last_load: self.last_load.get().clone(),
        }
    }

    /// Watches the files until it is dropped, and applies their changes. `observe` is called for each
    /// change, with whether it was applied.
    ///
    /// A pair of new files that does not fit together is looked at once more before it counts as wrong,
    /// because the two files may be written one after the other.
    pub async fn watch(self, observe: impl Fn(bool) + Send) {
        let (sender, mut changes) = mpsc::channel(1);
        let (files, contents) = (self.files.clone(), self.contents.clone());
        // A thread of its own: a file may be on a disk that does not respond.
        let watched = thread::Builder::new()
            .name("tls-files".to_owned())
            .spawn(move || watch_files(&files, contents, &sender));
        if let Err(error) = watched {
            tracing::error!(%error, "changes of the certificate are not noticed: no thread can be started");
        }
        let mut days = interval_at(Instant::now() + DAY, DAY);
        loop {
            tokio::select! {
                changed = changes.recv() => match changed {
                    Some(loaded) => {
                        let loaded = loaded.and_then(|server| self.unexpired(server));
                        observe(loaded.is_ok());
                        self.apply(loaded);
                    }
                    None => return,
                },
                _ = days.tick() => self.warn_of_end(),
            }
        }
    }

    /// An expired certificate does not replace one that is still valid.
    fn unexpired(&self, server: TlsServer) -> Result<TlsServer, TlsError> {
        let now = Timestamp::now();
        match server.validity.end(now) {
            Some(reason)
                if server.validity.has_expired(now)
                    && !self.current().validity.has_expired(now) =>
            {
                Err(TlsError::new(TlsFile::Cert, reason))
            }
            _ => Ok(server),
        }
    }

    fn warn_of_end(&self) {
        if let Some(warning) = self.current().validity.end(Timestamp::now()) {
            tracing::warn!("LLAMATOWER_TLS_CERT: {warning}");
        }
    }

    fn apply(&self, loaded: Result<TlsServer, TlsError>) {
        self.last_load.set(Some(LastLoad {
            at: Timestamp::now(),
            error: loaded.as_ref().err().map(ToString::to_string),
        }));
        match loaded {
            Ok(server) => {
                let expires = Timestamp::from_second(server.validity.not_after);
                let expires = expires.map(|time| time.to_string()).unwrap_or_default();
                let warning = server.validity.warning(Timestamp::now());
                self.current.set(Arc::new(server));
                tracing::info!(expires, "the files for TLS have changed and are in force");
                if let Some(warning) = warning {
                    tracing::warn!("LLAMATOWER_TLS_CERT: {warning}");
                }
            }
            Err(error) => tracing::error!(
                %error,
                "the files for TLS have changed and cannot be used; the old ones stay in force"
            ),
        }
    }
}

/// Looks at the files until the receiver is gone.
fn watch_files(
    files: &TlsFiles,
    contents: Contents,
    changes: &mpsc::Sender<Result<TlsServer, TlsError>>,
) {
    let mut known = Ok(contents);
    // A change that cannot be used, not reported yet.
    let mut doubtful = None;
    while !changes.is_closed() {
        thread::sleep(INTERVAL);
        let read = files.read();
        if read == known {
            doubtful = None;
            continue;
        }
        let loaded = match &read {
            Ok(contents) => TlsServer::new(files, contents),
            Err(error) => Err(error.clone()),
        };
        if loaded.is_err() && doubtful.as_ref() != Some(&read) {
            doubtful = Some(read);
            continue;
        }
        doubtful = None;
        known = read;
        if changes.blocking_send(loaded).is_err() {
            return;
        }
    }
}
