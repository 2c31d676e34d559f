//! The files that settings are read from.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The files that settings were read from, each with a digest of its content; `None` if it could
/// not be read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FilesRead(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl FilesRead {
    /// Reads a file. The digest is that of the returned text, so that a later comparison shows
    /// each change since.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<String> {
        let content = std::fs::read(path);
        self.0
            .insert(path.to_owned(), content.as_deref().ok().map(digest));
        String::from_utf8(content?)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }

    /// The same files with what they contain now. A pipe or a device keeps its digest, because
    /// reading it again would take its content away or wait for ever.
    pub fn now(&self) -> Self {
        let current = self.0.iter().map(|(path, known)| {
            let found = match std::fs::metadata(path) {
                Ok(found) if !found.is_file() => *known,
                _ => std::fs::read(path).ok().as_deref().map(digest),
            };
            (path.clone(), found)
        });
        Self(current.collect())
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Without the digests: a file may hold a short secret.
impl std::fmt::Debug for FilesRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where a relative path leads, as part of a sentence after it; an empty text for an absolute one.
pub(crate) fn absolute(path: &Path) -> String {
    match (path.is_relative(), std::path::absolute(path)) {
        (true, Ok(absolute)) => format!(" (from the working directory: {})", absolute.display()),
        _ => String::new(),
    }
}

fn digest(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}
