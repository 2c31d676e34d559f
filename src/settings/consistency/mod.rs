//! What no setting shows alone: settings that contradict each other, or have no effect together.
//!
//! A contradiction that stops the gateway or opens it is an error, what only has another effect than
//! meant is a warning. Each names both settings. Most are rows of a table ([`pairs`]).

mod listeners;
mod others;
mod pairs;

use super::reader::Reader;
use super::table::Settings;

/// What comes of a contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The gateway does not start.
    Error,
    /// It starts and says so.
    Warning,
}

/// Notes every contradiction. Settings that are wrong by themselves are compared with nothing.
pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    pairs::check(settings, reader);
    listeners::check(settings, reader);
    others::check(settings, reader);
}
