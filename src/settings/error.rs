//! What is wrong with the settings.

use std::fmt;

/// One thing that is wrong.
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
