//! Why a command for a running gateway failed.

use crate::commands::arguments::Exit;

/// Why a command for a running gateway failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManageError {
    /// An argument or a variable is wrong.
    #[error("{0}")]
    Arguments(String),
    /// There was no complete response.
    #[error("no response from the gateway at {url}: {reason}")]
    NoResponse { url: String, reason: String },
    /// The gateway refused the request, or all of its servers did.
    #[error("{action}: {reason}")]
    Failed { action: String, reason: String },
    /// Several of these.
    #[error("{0}")]
    Several(String),
    /// The terminal cannot be read or drawn to.
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[source] std::io::Error),
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl ManageError {
    /// The exit code of the program.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Arguments(_) => Exit::WrongSetting,
            _ => Exit::Failed,
        }
    }

    /// One error of all that occurred; `Ok` if none did.
    pub(super) fn of_all(errors: Vec<Self>) -> Result<(), Self> {
        let mut errors = errors;
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => {
                let texts: Vec<_> = errors.iter().map(Self::to_string).collect();
                Err(Self::Several(texts.join("\n")))
            }
        }
    }
}
