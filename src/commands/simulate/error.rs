//! Why a simulation cannot be run.

use std::io;
use std::path::PathBuf;

use super::trace::TraceError;

/// Why a simulation cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SimulateError {
    /// No scenario has this name.
    #[error("there is no scenario {0:?}; the scenarios are: {1}")]
    UnknownScenario(String, String),
    /// No policy has this name.
    #[error("there is no policy {0:?}; the policies are: {1}")]
    UnknownPolicy(String, String),
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A plot cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Plot {
        /// The file or its directory.
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The figures cannot be written.
    #[error("cannot write the figures: {0}")]
    Output(#[from] io::Error),
}

impl SimulateError {
    /// Whether an argument is wrong, and not the system.
    pub(crate) fn is_of_arguments(&self) -> bool {
        match self {
            Self::UnknownScenario(..) | Self::UnknownPolicy(..) | Self::Trace(_) => true,
            Self::Plot { .. } | Self::Output(_) => false,
        }
    }
}
