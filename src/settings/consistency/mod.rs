//! Checks for settings that contradict each other, or that have no effect together.
//!
//! A contradiction that prevents the start or opens the gateway is an error; one with an unintended
//! effect is a warning. Each message names both settings. Most checks are rows of a table
//! ([`pairs`]).

mod listeners;
mod others;
mod pairs;

use super::reader::Reader;
use super::table::Settings;

/// The severity of a contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The gateway does not start.
    Error,
    /// It starts, and logs a warning.
    Warning,
}

/// Reports every contradiction. Settings that are wrong by themselves are not compared.
pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    pairs::check(settings, reader);
    listeners::check(settings, reader);
    others::check(settings, reader);
}
