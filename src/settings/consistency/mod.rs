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

/// Reports every contradiction. Settings that are wrong by themselves are not compared.
pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    pairs::check(settings, reader);
    listeners::check(settings, reader);
    others::check(settings, reader);
}
