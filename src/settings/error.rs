//! What is wrong with the settings, or doubtful about them.

use std::fmt;

use crate::telemetry::TelemetryError;

/// One thing that is wrong or doubtful.
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

    /// What telemetry says of one of OpenTelemetry's variables.
    pub(super) fn of_telemetry(error: &TelemetryError) -> Self {
        match error {
            TelemetryError::Endpoint {
                variable,
                endpoint,
                reason,
            } => Self::new(
                variable,
                format!("{endpoint} is no endpoint that can be used: {reason}"),
            ),
            other => Self::new("telemetry", other.to_string()),
        }
    }

    /// The variable, the key of the file or the file that it is about, as it was given.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What is wrong, and what to do. No secret is in it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Everything that is wrong with the settings, a line each, in their order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct SettingsError(pub(super) Vec<Problem>);

impl SettingsError {
    /// What is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}
