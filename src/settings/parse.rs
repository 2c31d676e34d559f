//! Parsers of values. Errors do not contain the value; the caller decides whether to show it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;
use jiff::tz::TimeZone;
use llamatower_layers::EndpointTable;
use llamatower_layers::api_key::{KeySet, Role, is_key_name};
use llamatower_layers::queue::Priority;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::{Budget, Window};

use super::files::absolute;
use super::secret::Secret;
use super::values::{
    ExtraPath, KeyLimits, ListingRate, NumCtx, PerServer, ServerName, SizeOrShare,
};
use crate::edge::{Hosts, ListenAddr, Origins, TrustedProxies};
use crate::ollama::fleet::SlotRule;
use crate::ollama::upstream::{Address, Authorities, Authorization, has_user};
use crate::shared::WithoutRedis;
use crate::telemetry::{LogFormat, Semconv, check_log_filter};

/// A value, or the reason why the text is wrong.
pub(super) type Parsed<T> = Result<T, String>;

// === generic parsers ===

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

// === numbers, times and sizes ===

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

// === limits ===

pub(super) fn rate(text: &str) -> Parsed<Quota> {
    let (requests, per) = text
        .split_once('/')
        .ok_or("it must end with /s, /m or /h")?;
    let per = one_of(&[("s", 1), ("m", 60), ("h", 3600)])(per.trim())?;
    let quota = Quota::new(count(requests)?, Duration::from_secs(per));
    quota.map_err(|error| error.to_string())
}

pub(super) fn listing_rate(text: &str) -> Parsed<ListingRate> {
    match text {
        "" | "auto" => Ok(ListingRate::Auto),
        "off" => Ok(ListingRate::Off),
        text => Ok(ListingRate::Of(rate(text)?)),
    }
}

pub(super) fn token_budget(text: &str) -> Parsed<Budget> {
    let parts = text.split_once('/');
    let (tokens, window) = parts.ok_or("it must end with /minute, /day or /month")?;
    let windows = [
        ("minute", Window::Minute),
        ("day", Window::Day),
        ("month", Window::Month),
    ];
    Ok(Budget::new(
        count(tokens)?,
        one_of(&windows)(window.trim())?,
    ))
}

/// A value for all servers, and values for named ones, like `4, gpu-1:11434=2`.
fn per_server<T: Default>(text: &str, value: impl Fn(&str) -> Parsed<T>) -> Parsed<PerServer<T>> {
    without_user(text)?;
    let mut of = PerServer::default();
    for item in items(text) {
        match item.split_once('=') {
            None => of.others = value(item)?,
            Some((name, text)) => of.named.push((server_name(name)?, value(text)?)),
        }
    }
    Ok(of)
}

pub(super) fn slots(text: &str) -> Parsed<PerServer<SlotRule>> {
    per_server(text, slot_rule)
}

pub(super) fn server_limits(text: &str) -> Parsed<PerServer<Option<NonZeroUsize>>> {
    per_server(text, |text| match text.trim() {
        "off" => Ok(None),
        number => count(number).map(Some),
    })
}

fn slot_rule(text: &str) -> Parsed<SlotRule> {
    Ok(match text.trim() {
        "learn" => SlotRule::Learn,
        "off" => SlotRule::Off,
        number => SlotRule::Count(count(number)?),
    })
}

pub(super) fn priority(text: &str) -> Parsed<Priority> {
    one_of(&[
        ("high", Priority::High),
        ("normal", Priority::Normal),
        ("low", Priority::Low),
    ])(text)
}

pub(super) fn key_limits(text: &str) -> Parsed<BTreeMap<Arc<str>, KeyLimits>> {
    let mut limits: BTreeMap<Arc<str>, KeyLimits> = BTreeMap::new();
    for item in items(text) {
        let parts = item.split_once(':').and_then(|(name, limit)| {
            let (kind, value) = limit.split_once('=')?;
            Some((name.trim(), kind.trim(), value.trim()))
        });
        let (name, kind, value) = parts.ok_or(format!("{item:?} is not like ada:rate=60/m"))?;
        let limits = limits.entry(name.into()).or_default();
        match kind {
            "rate" => limits.rate = optional(rate)(value)?,
            "tokens" => limits.tokens.push(token_budget(value)?),
            "weight" => limits.share.weight = count(value)?,
            "priority" => limits.share.priority = priority(value)?,
            _ => {
                let kinds = "rate, tokens, weight, priority";
                return Err(format!("{kind:?} must be one of {kinds}"));
            }
        }
    }
    Ok(limits)
}

/// Networks with their names, like `10.1.0.0/16=lab, fd00:1::7=buildbot`. Each network has one name.
pub(super) fn networks(text: &str) -> Parsed<Vec<(IpNet, Arc<str>)>> {
    let mut found: Vec<(IpNet, Arc<str>)> = Vec::new();
    for item in items(text) {
        let (network, name) = item
            .split_once('=')
            .ok_or(format!("{item:?} is not like 10.1.0.0/16=lab"))?;
        let (network, name) = (network.trim(), name.trim());
        let network = network
            .parse::<IpNet>()
            .or_else(|_| {
                network
                    .parse()
                    .map(|ip: IpAddr| IpNet::from(ip.to_canonical()))
            })
            .map_err(|_| {
                format!("{network:?} is neither a network like 10.1.0.0/16 nor an address")
            })?;
        if !is_key_name(name) {
            return Err(format!(
                "{name:?} cannot be a name: write 1 to 64 of letters, digits and - _ . @"
            ));
        }
        let network = network.trunc();
        match found.iter().find(|(known, _)| *known == network) {
            Some((_, known)) if **known != *name => {
                return Err(format!("{network} has two names: {known} and {name}"));
            }
            Some(_) => return Err(format!("{network} is listed twice")),
            None => found.push((network, name.into())),
        }
    }
    Ok(found)
}

/// A header that names a user. It is removed from requests, so it cannot be one that they need.
pub(super) fn user_header(text: &str) -> Parsed<HeaderName> {
    const NEEDED: [&str; 8] = [
        "accept",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "x-api-key",
    ];
    let name: HeaderName = text
        .parse()
        .map_err(|_| format!("{text:?} is not the name of a header"))?;
    match NEEDED.contains(&name.as_str()) {
        true => Err(format!("{name} has another purpose in each request")),
        false => Ok(name),
    }
}

// === addresses ===

pub(super) fn addresses(text: &str) -> Parsed<Vec<ListenAddr>> {
    let found: Vec<ListenAddr> = list(plain)(text)?;
    let mut places = found.iter().enumerate();
    match places.find(|(index, address)| found[..*index].contains(address)) {
        Some((_, twice)) => Err(format!("{twice} is listed twice")),
        None => Ok(found),
    }
}

/// The servers, each once. Two spellings of one address are an error, because the server would
/// count twice.
pub(super) fn backends(text: &str) -> Parsed<Vec<Address>> {
    without_user(text)?;
    let mut found: Vec<(Address, &str)> = Vec::new();
    for item in items(text) {
        if item.contains(char::is_whitespace) {
            return Err("an address has a space in it; write commas between addresses".to_owned());
        }
        let address = backend(item)?;
        match found
            .iter()
            .find(|(known, _)| known.is_same_server(&address))
        {
            Some((_, known)) if *known == item => {
                return Err(format!("{item} is listed twice; list each server once"));
            }
            Some((_, known)) => {
                return Err(format!(
                    "{known} and {item} are the same server; list each server once"
                ));
            }
            None => found.push((address, item)),
        }
    }
    match found.is_empty() {
        true => Err("it contains no server".to_owned()),
        false => Ok(found.into_iter().map(|(address, _)| address).collect()),
    }
}

/// The address of one server.
pub(super) fn backend(text: &str) -> Parsed<Address> {
    without_user(text)?;
    plain(text)
}

/// A password in an address may contain commas. A text with an @ is not split, because a part of
/// the password could be shown.
pub(super) fn without_user(text: &str) -> Parsed<()> {
    match has_user(text) {
        true => Err(
            "an address must not contain a user name or a password (it has an @); \
             LLAMATOWER_BACKEND_TOKENS takes them"
                .to_owned(),
        ),
        false => Ok(()),
    }
}

/// The name of a server in another setting; it is looked up when all settings are read.
pub(super) fn server_name(text: &str) -> Parsed<ServerName> {
    without_user(text)?;
    Ok(text.trim().into())
}

/// The credentials of each server, as in `gpu-1=TOKEN, gpu-2:8080=basic USER:PASSWORD`.
pub(super) fn tokens(text: &str) -> Parsed<Vec<(ServerName, Authorization)>> {
    let token = |(index, item): (usize, &str)| {
        // A text that is not a server's name may be a token whose server was forgotten, and is not
        // shown.
        let parts = item.split_once('=').filter(|(name, token)| {
            plain::<Address>(name).is_ok() && !token.trim_matches(['=', ' ']).is_empty()
        });
        let (name, token) =
            parts.ok_or(format!("item {} must have the form gpu-1=TOKEN", index + 1))?;
        let name = server_name(name)?;
        let token = plain(token).map_err(|reason| format!("the token for {name}: {reason}"))?;
        Ok((name, token))
    };
    items(text).enumerate().map(token).collect()
}

/// The certificate authorities in a file.
pub(super) fn authorities(path: &str) -> Parsed<Authorities> {
    let cannot = |error| {
        format!(
            "the file{} cannot be read: {error}",
            absolute(Path::new(path))
        )
    };
    let pem = std::fs::read(path).map_err(cannot)?;
    Authorities::from_pem(&pem).map_err(|error| format!("the file {error}"))
}

pub(super) fn origins(text: &str) -> Parsed<Origins> {
    Origins::with(items(text)).map_err(|error| error.to_string())
}

pub(super) fn hosts(text: &str) -> Parsed<Hosts> {
    Hosts::with(items(text)).map_err(|error| error.to_string())
}

pub(super) fn trusted_proxies(text: &str) -> Parsed<TrustedProxies> {
    TrustedProxies::with(items(text)).map_err(|error| error.to_string())
}

/// A DNS server by its address; the default port is 53.
pub(super) fn dns_server(text: &str) -> Parsed<SocketAddr> {
    let ip = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    ip.or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} must be an address like 10.0.0.2 or 127.0.0.1:8600"))
}

/// One row per path; a path that is listed several times has all of the methods.
pub(super) fn extra_paths(text: &str) -> Parsed<Vec<ExtraPath>> {
    let mut paths: Vec<ExtraPath> = Vec::new();
    for item in items(text) {
        let extra = extra_path(item)?;
        match paths.iter_mut().find(|known| known.path == extra.path) {
            Some(known) => known.methods.extend(extra.methods),
            None => paths.push(extra),
        }
    }
    Ok(paths)
}

fn extra_path(text: &str) -> Parsed<ExtraPath> {
    let (method, path) = match text.split_once(char::is_whitespace) {
        Some((method, path)) => (method, path.trim()),
        None => ("POST", text),
    };
    let extra = ExtraPath {
        methods: vec![plain::<Method>(method)?],
        path: path.to_owned(),
    };
    let known = EndpointTable::ollama().with_path(path, &extra.methods);
    known.map_err(|error| error.to_string())?;
    match path.strip_prefix("/openai") {
        Some(path) if path.starts_with("/v1/") => Err(format!(
            "/openai{path} is served as {path}, which is the path to add"
        )),
        _ => Ok(extra),
    }
}

// === other settings ===

pub(super) const SEMCONV: [(&str, Semconv); 3] = [
    ("v0.1.0", Semconv::V0_1_0),
    ("v1.41", Semconv::V1_41),
    ("both", Semconv::Both),
];
pub(super) const LOG_FORMATS: [(&str, LogFormat); 3] = [
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
    ("auto", LogFormat::Auto),
];

pub(super) const PROXY_PROTOCOL: [(&str, bool); 2] = [("off", false), ("required", true)];

pub(super) const NUM_CTX: [(&str, NumCtx); 2] = [("keep", NumCtx::Keep), ("exact", NumCtx::Exact)];

pub(super) const WITHOUT_REDIS: [(&str, WithoutRedis); 3] = [
    ("share", WithoutRedis::Share),
    ("open", WithoutRedis::Open),
    ("closed", WithoutRedis::Closed),
];

pub(super) const SLOTS_WITHOUT_REDIS: [(&str, WithoutRedis); 2] =
    [("share", WithoutRedis::Share), ("open", WithoutRedis::Open)];

/// The beginning of keys in Redis. Braces would put all keys on one server of a cluster.
pub(super) fn redis_prefix(text: &str) -> Parsed<String> {
    let is_fine = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '*' | '?' | '[' | ']');
    match text.len() <= 64 && text.chars().all(is_fine) {
        true => Ok(text.to_owned()),
        false => Err("it may have up to 64 letters, digits and signs like : and -".to_owned()),
    }
}

/// The place of the id in the address of a trace.
const TRACE_ID: &str = "{trace_id}";

pub(super) fn trace_url(text: &str) -> Parsed<String> {
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return Err("it must begin with https:// or http://".to_owned());
    }
    if !text.contains(TRACE_ID) {
        return Err(format!("it must contain {TRACE_ID}"));
    }
    match has_user(text) {
        true => Err("it must not contain a user name or a password".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// The log filter, in the syntax of `RUST_LOG`.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    check_log_filter(text)?;
    Ok(text.to_owned())
}

pub(super) fn secret(text: &str) -> Parsed<Secret> {
    Ok(Secret::new(text))
}

/// The digests of keys, one per item.
pub(super) fn digests(text: &str) -> Parsed<Vec<Secret>> {
    let lines = list(secret)(text)?;
    let keys = KeySet::from_lines(lines.iter().map(Secret::expose), Role::User);
    keys.map_err(|error| error.to_string())?;
    Ok(lines)
}
