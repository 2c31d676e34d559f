//! Opens the file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::store::{Store, Unusable};

/// The name of the file in its directory.
const FILE: &str = "state.redb";

/// An open file.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) path: PathBuf,
    /// The file that was there, if it was damaged.
    pub(super) put_aside: Option<Aside>,
}

/// A damaged file under its new name.
pub(super) struct Aside {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

impl Opened {
    /// Logs that the file that was there is damaged.
    pub(super) fn log_put_aside(&self) {
        if let Some(aside) = &self.put_aside {
            tracing::warn!(
                file = %self.path.display(), kept_as = %aside.path.display(), reason = aside.reason,
                "the state of earlier runs is damaged and was put aside; usage, token budgets and \
                 cordons start empty"
            );
        }
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The directory or the file cannot be created, read or written.
    #[error("{} cannot be used: {reason}", .path.display())]
    Io { path: PathBuf, reason: String },
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A newer version has written it.
    #[error("{} was written by a newer version of the gateway (format {format})", .path.display())]
    Newer { path: PathBuf, format: String },
    /// It is damaged, and cannot be renamed.
    #[error("{} is damaged ({reason}) and cannot be renamed: {error}", .path.display())]
    Damaged {
        path: PathBuf,
        reason: String,
        error: io::Error,
    },
}

impl OpenError {
    /// Whether the file may be there later, without a change of the settings.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::InUse(_))
    }

    /// Logs that nothing is kept, and what to do.
    pub(super) fn log(&self, directory: &Path) {
        let again = match self.is_temporary() {
            true => "; it is tried again every 5 s",
            false => "",
        };
        tracing::warn!(
            directory = %directory.display(), reason = %self,
            "usage, token budgets and cordons are not kept over a restart: {}{again}", self.advice()
        );
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Io { .. } => {
                "give the gateway a directory that it can write, for example a volume, in \
                 LLAMATOWER_STATE_DIR"
            }
            Self::InUse(_) => {
                "end the other process, or give each gateway its own directory in LLAMATOWER_STATE_DIR"
            }
            Self::Newer { .. } => {
                "start the newer version, or set LLAMATOWER_STATE_DIR to another directory; its content \
                 was not changed"
            }
            Self::Damaged { .. } => "move the file away and restart the gateway",
        }
    }
}

/// Opens the file in this directory. Both are created if they do not exist. A damaged file is renamed,
/// and a new one takes its place.
pub(super) fn open(directory: &Path) -> Result<Opened, OpenError> {
    let path = directory.join(FILE);
    let failed = |path: &Path, error: io::Error| OpenError::Io {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let reason = match open_file(&path).map_err(|error| failed(&path, error))? {
        Ok(store) => {
            return Ok(Opened {
                store,
                path,
                put_aside: None,
            });
        }
        Err(Unusable::Damaged(reason)) => reason,
        Err(Unusable::InUse) => return Err(OpenError::InUse(path)),
        Err(Unusable::Newer(format)) => return Err(OpenError::Newer { path, format }),
        Err(Unusable::Io(reason)) => return Err(OpenError::Io { path, reason }),
    };
    let aside = path.with_added_extension(format!(
        "damaged-{}",
        Timestamp::now().strftime("%Y%m%dT%H%M%SZ")
    ));
    if let Err(error) = fs::rename(&path, &aside) {
        return Err(OpenError::Damaged {
            path,
            reason,
            error,
        });
    }
    let again = open_file(&path).map_err(|error| failed(&path, error))?;
    let store = again.map_err(|_| OpenError::Io {
        path: path.clone(),
        reason: "a new file cannot be used".to_owned(),
    })?;
    let put_aside = Some(Aside {
        path: aside,
        reason,
    });
    Ok(Opened {
        store,
        path,
        put_aside,
    })
}

/// Opens or creates the file.
pub(super) fn open_file(path: &Path) -> io::Result<Result<Store, Unusable>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // It names clients.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file: File = options.open(path)?;
    // A damaged file may have a content that the library does not expect.
    let opened = panic::catch_unwind(AssertUnwindSafe(|| Store::in_file(file)));
    Ok(opened.unwrap_or_else(|_| Err(Unusable::Damaged("reading it failed".to_owned()))))
}
