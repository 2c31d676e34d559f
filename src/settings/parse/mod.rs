//! Parsers of values. Errors do not contain the value; the caller decides whether to show it.
//!
//! Here are those that all settings share: words, lists, numbers, times and sizes.

mod addresses;
mod limits;
mod others;
mod servers;

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;

pub(super) use self::addresses::*;
pub(super) use self::limits::*;
pub(super) use self::others::*;
pub(super) use self::servers::*;
use super::values::SizeOrShare;

/// A value, or the reason why the text is wrong.
pub(super) type Parsed<T> = Result<T, String>;

/// Parses with the type's own `FromStr`.
pub(super) fn plain<T: FromStr<Err: Display>>(text: &str) -> Parsed<T> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

pub(super) fn text<T: for<'a> From<&'a str>>(text: &str) -> Parsed<T> {
    Ok(text.into())
}

/// The default for `word`, and for an empty text.
pub(super) fn unless<T: Default>(
    word: &'static str,
    parse: impl Fn(&str) -> Parsed<T>,
) -> impl Fn(&str) -> Parsed<T> {
    move |text| match text.is_empty() || text == word {
        true => Ok(T::default()),
        false => parse(text),
    }
}

pub(super) fn or_off<T: Default>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<T> {
    unless("off", parse)
}

pub(super) fn some<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Option<T>> {
    move |text| parse(text).map(Some)
}

pub(super) fn optional<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Option<T>> {
    or_off(some(parse))
}

pub(super) fn list<T>(parse: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Vec<T>> {
    move |text| items(text).map(&parse).collect()
}

/// The items of a text, separated by commas or line breaks.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    let items = text.split([',', '\n']).map(str::trim);
    items.filter(|item| !item.is_empty())
}

/// One of several words.
pub(super) fn one_of<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&str) -> Parsed<T> {
    move |text| match choices.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            Err(format!("it must be one of {}", words.join(", ")))
        }
    }
}

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let parsed = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    match parsed? {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

pub(super) fn pause(text: &str) -> Parsed<Duration> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => duration(text),
    }
}

/// A number in a type without 0.
pub(super) fn count<T: FromStr>(text: &str) -> Parsed<T> {
    let parsed = text.trim().parse();
    parsed.map_err(|_| "it is not a whole number above 0".to_owned())
}

/// More threads than any machine has processors cost memory and seconds at the start.
const MAX_THREADS: usize = 1024;

pub(super) fn threads(text: &str) -> Parsed<NonZeroUsize> {
    match count::<NonZeroUsize>(text)? {
        threads if threads.get() > MAX_THREADS => Err(format!("it is above {MAX_THREADS}")),
        threads => Ok(threads),
    }
}

pub(super) fn number(text: &str) -> Parsed<f64> {
    let parsed = text.parse().ok();
    let is_valid = parsed.filter(|number: &f64| number.is_finite() && *number >= 0.0);
    is_valid.ok_or_else(|| "it is not a number, 0 or more".to_owned())
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

pub(super) fn size(text: &str) -> Parsed<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err("its unit must be KiB, MiB, GiB, kB, MB or GB".to_owned()),
    };
    let number: Result<u64, _> = digits.trim().parse();
    let number = number.map_err(|_| "it is not a number of bytes")?;
    match number.checked_mul(unit) {
        Some(0) => Err("it must be more than 0".to_owned()),
        Some(size) => Ok(size),
        None => Err("it is too large".to_owned()),
    }
}

/// The size of a request's head.
pub(super) fn head_size(text: &str) -> Parsed<usize> {
    match usize::try_from(size(text)?) {
        Ok(size) if (1 << 10..=16 << 20).contains(&size) => Ok(size),
        _ => Err("a head may have 1 KiB to 16 MiB".to_owned()),
    }
}

pub(super) fn size_or_share(text: &str) -> Parsed<SizeOrShare> {
    let Some(percent) = text.strip_suffix('%') else {
        return size(text).map(SizeOrShare::Bytes);
    };
    match percent.trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(SizeOrShare::Share(percent / 100.0)),
        _ => Err("a share must be above 0% and at most 100%".to_owned()),
    }
}

pub(super) fn time_zone(text: &str) -> Parsed<TimeZone> {
    TimeZone::get(text).map_err(|error| error.to_string())
}
