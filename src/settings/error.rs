//! Errors and warnings about settings.

use std::fmt;

use super::files::FilesRead;
use crate::telemetry::TelemetryError;

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {reason}")]
pub struct Problem {
    subject: String,
    reason: String,
}

impl Problem {
    pub(super) fn new(subject: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self {
            subject: subject.to_string(),
            reason: reason.into(),
        }
    }

    /// An error about one of OpenTelemetry's variables.
    pub(super) fn of_telemetry(error: &TelemetryError) -> Self {
        match error {
            TelemetryError::Endpoint {
                variable,
                endpoint,
                reason,
            } => Self::new(
                variable,
                format!("{endpoint} is not a usable endpoint: {reason}"),
            ),
            other => Self::new("telemetry", other.to_string()),
        }
    }

    /// The variable, key or file that it concerns, as the user wrote it.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What is wrong and what to do. It contains no secret.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// All errors in the settings, one per line, in the order of the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct SettingsError {
    problems: Vec<Problem>,
    files: FilesRead,
}

impl SettingsError {
    pub(super) fn new(problems: Vec<Problem>, files: FilesRead) -> Self {
        Self { problems, files }
    }

    /// The errors.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The files that were read.
    pub fn files(&self) -> &FilesRead {
        &self.files
    }
}

/// The severity of a contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The gateway does not start.
    Error,
    /// It starts, and logs a warning.
    Warning,
}
