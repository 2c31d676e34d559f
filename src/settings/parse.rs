//! Texts into values. What is wrong is said without the value, which the caller shows or hides.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::tz::TimeZone;
use llamatower_layers::queue::Priority;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::{Budget, Window};

use super::{KeyLimits, Slots};

use crate::edge::BasePath;
use crate::ollama::upstream::{Address, Authorities, Authorization, has_user};

/// Memory: so many bytes, or a share of the limit of the container or machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SizeOrShare {
    /// In bytes.
    Bytes(u64),
    /// Between 0 and 1.
    Share(f64),
}

/// A path that is allowed by a setting, with its methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraPath {
    /// The methods it is asked with.
    pub methods: Vec<Method>,
    /// The exact path.
    pub path: String,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    parsed.and_then(|duration| match duration {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        duration => Ok(duration),
    })
}

pub(super) fn pause(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => duration(text),
    }
}

pub(super) fn optional_duration(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        text => duration(text).map(Some),
    }
}

pub(super) fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "it is no whole number above 0".to_owned())
}

pub(super) fn optional_count(text: &str) -> Result<Option<NonZeroUsize>, String> {
    match text {
        "off" => Ok(None),
        text => count(text).map(Some),
    }
}

pub(super) fn positive(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| "it is no whole number above 0".to_owned())
}

/// The servers, each once.
pub(super) fn addresses(text: &str) -> Result<Vec<Address>, String> {
    without_user(text)?;
    let mut found: Vec<Address> = Vec::new();
    for item in items(text) {
        let address = item.parse().map_err(|error| format!("{error}"))?;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    match found.is_empty() {
        true => Err("it names no server".to_owned()),
        false => Ok(found),
    }
}

/// A password in an address may hold commas: what has one is not cut, as a piece of it could be
/// shown.
fn without_user(text: &str) -> Result<(), String> {
    match has_user(text) {
        true => Err(
            "an address must hold no user name and no password (an @ was found); \
             LLAMATOWER_BACKEND_TOKENS takes them"
                .to_owned(),
        ),
        false => Ok(()),
    }
}

/// The servers that are called `name`, at least one.
pub(super) fn called<'a>(servers: &'a [Address], name: &str) -> Result<Vec<&'a Address>, String> {
    without_user(name)?;
    match Address::called(servers, name.trim()) {
        none if none.is_empty() => Err(format!("{name} is none of the servers in OLLAMA_URL")),
        found => Ok(found),
    }
}

pub(super) fn slots(text: &str, servers: &[Address]) -> Result<Slots, String> {
    without_user(text)?;
    let mut slots = Slots::default();
    for item in items(text).filter(|item| *item != "off") {
        match item.split_once('=') {
            None => slots.others = Some(count(item)?),
            Some((name, number)) => {
                let number = count(number.trim())?;
                let named = called(servers, name)?.into_iter().cloned();
                slots.named.extend(named.map(|address| (address, number)));
            }
        }
    }
    Ok(slots)
}

/// What each server is to be shown, as in `gpu-1=TOKEN, gpu-2:8080=basic USER:PASSWORD`.
pub(super) fn tokens(
    text: &str,
    servers: &[Address],
) -> Result<Vec<(Address, Authorization)>, String> {
    let mut tokens: Vec<(Address, Authorization)> = Vec::new();
    for (index, item) in items(text).enumerate() {
        // What is no name of a server may be a token whose server was forgotten, and is not shown.
        let parts = item.split_once('=').filter(|(name, token)| {
            name.trim().parse::<Address>().is_ok() && !token.trim_matches(['=', ' ']).is_empty()
        });
        let (name, token) =
            parts.ok_or_else(|| format!("item {} is not like gpu-1=TOKEN", index + 1))?;
        let token: Authorization = token
            .parse()
            .map_err(|error| format!("the token for {name}: {error}"))?;
        for server in called(servers, name.trim())? {
            if tokens.iter().any(|(known, _)| known == server) {
                return Err(format!("there are two tokens for {server}"));
            }
            tokens.push((server.clone(), token.clone()));
        }
    }
    Ok(tokens)
}

/// The authorities in a file of certificates.
pub(super) fn authorities(path: &str) -> Result<Authorities, String> {
    let pem = std::fs::read(path).map_err(|error| format!("the file cannot be read: {error}"))?;
    Authorities::from_pem(&pem).map_err(|error| format!("the file {error}"))
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("it is no number of 0 or more".to_owned()),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err("its unit is none of KiB, MiB, GiB, kB, MB, GB".to_owned()),
    };
    let number: u64 = digits
        .trim()
        .parse()
        .map_err(|_| "it is no number of bytes".to_owned())?;
    match number.checked_mul(unit) {
        Some(size) if size > 0 => Ok(size),
        Some(_) => Err("it must be more than 0".to_owned()),
        None => Err("it is too large".to_owned()),
    }
}

pub(super) fn size_or_share(text: &str) -> Result<SizeOrShare, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return size(text).map(SizeOrShare::Bytes);
    };
    match percent.trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(SizeOrShare::Share(percent / 100.0)),
        _ => Err("a share lies above 0% and up to 100%".to_owned()),
    }
}

pub(super) fn rate(text: &str) -> Result<Option<Quota>, String> {
    if text == "off" {
        return Ok(None);
    }
    let (requests, per) = text.split_once('/').ok_or("it has no /s, /m or /h")?;
    let requests = requests
        .trim()
        .parse()
        .map_err(|_| "it has no whole number above 0".to_owned())?;
    let per = match per.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("its time is none of s, m, h".to_owned()),
    };
    let quota = Quota::new(requests, Duration::from_secs(per));
    quota.map(Some).map_err(|error| error.to_string())
}

pub(super) fn token_budgets(text: &str) -> Result<Vec<Budget>, String> {
    match text {
        "off" => Ok(Vec::new()),
        text => items(text).map(token_budget).collect(),
    }
}

fn token_budget(text: &str) -> Result<Budget, String> {
    let (tokens, window) = text
        .split_once('/')
        .ok_or("it has no /minute, /day or /month")?;
    let tokens = tokens
        .trim()
        .parse()
        .map_err(|_| "it has no whole number above 0")?;
    let window = match window.trim() {
        "minute" => Window::Minute,
        "day" => Window::Day,
        "month" => Window::Month,
        _ => return Err("its time is none of minute, day, month".to_owned()),
    };
    Ok(Budget::new(tokens, window))
}

pub(super) fn key_limits(text: &str) -> Result<BTreeMap<Arc<str>, KeyLimits>, String> {
    let mut limits: BTreeMap<Arc<str>, KeyLimits> = BTreeMap::new();
    for item in items(text) {
        let parts = item.split_once(':').and_then(|(name, limit)| {
            let (kind, value) = limit.split_once('=')?;
            Some((name.trim(), kind.trim(), value.trim()))
        });
        let (name, kind, value) = parts.ok_or(format!("{item:?} is not like ada:rate=60/m"))?;
        let limits = limits.entry(name.into()).or_default();
        match kind {
            "rate" => limits.rate = rate(value)?,
            "tokens" => limits.tokens.push(token_budget(value)?),
            "weight" => limits.share.weight = positive(value)?,
            "priority" => limits.share.priority = priority(value)?,
            _ => {
                return Err(format!(
                    "{kind:?} is none of rate, tokens, weight, priority"
                ));
            }
        }
    }
    Ok(limits)
}

fn priority(text: &str) -> Result<Priority, String> {
    match text {
        "high" => Ok(Priority::High),
        "normal" => Ok(Priority::Normal),
        "low" => Ok(Priority::Low),
        _ => Err(format!("{text:?} is none of high, normal, low")),
    }
}

pub(super) fn time_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).map_err(|error| error.to_string())
}

/// The texts between commas and line breaks.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n'])
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// DNS servers by their addresses; the port is 53 if none is given.
pub(super) fn dns_servers(text: &str) -> Result<Vec<SocketAddr>, String> {
    let server = |item: &str| {
        let ip = item.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
        ip.or_else(|_| item.parse())
            .map_err(|_| format!("{item:?} is no address like 10.0.0.2 or 127.0.0.1:8600"))
    };
    items(text).map(server).collect()
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

pub(super) fn base_path(text: &str) -> Result<Option<BasePath>, String> {
    match text {
        "/" => Ok(None),
        text => text.parse().map(Some).map_err(|error| format!("{error}")),
    }
}

pub(super) fn extra_path(text: &str) -> Result<ExtraPath, String> {
    let (method, path) = match text.trim().split_once(char::is_whitespace) {
        Some((method, path)) => (method, path.trim()),
        None => ("POST", text.trim()),
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let known =
        llamatower_layers::EndpointTable::ollama().with_path(path, std::slice::from_ref(&method));
    known.map_err(|error| error.to_string())?;
    Ok(ExtraPath {
        methods: vec![method],
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, milliseconds) in [
            ("2", 2000),
            ("2s", 2000),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("0.5", 500),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "0", "soon", "-1", "2 parsecs", "inf", "1e99"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(optional_duration("off"), Ok(None));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("128MiB", 128 << 20),
            ("1GB", 1_000_000_000),
            ("64k", 64 << 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "MiB", "-1", "1TiB", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(size_or_share("25%"), Ok(SizeOrShare::Share(0.25)));
        assert!(size_or_share("0%").is_err() && size_or_share("101%").is_err());
    }

    #[test]
    fn rates_are_requests_in_a_time() {
        let requests = 600.try_into().expect("not 0");
        let expected = Quota::new(requests, Duration::from_secs(60)).expect("it is possible");
        assert_eq!(rate("600/m"), Ok(Some(expected)));
        assert_eq!(rate("off"), Ok(None));
        for text in ["600", "0/s", "5/d", "/s", "x/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
