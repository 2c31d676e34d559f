//! Parsers of the other settings: words, keys, Redis, logs and traces, headers and paths.

use http::{HeaderName, Method};
use llamatower_layers::EndpointTable;
use llamatower_layers::api_key::{KeySet, Role};

use super::{Parsed, items, list, plain};
use crate::ollama::upstream::has_user;
use crate::settings::secret::Secret;
use crate::settings::values::{ExtraPath, NumCtx};
use crate::shared::WithoutRedis;
use crate::telemetry::{LogFormat, Semconv, check_log_filter};

pub(in crate::settings) const SEMCONV: [(&str, Semconv); 3] = [
    ("v0.1.0", Semconv::V0_1_0),
    ("v1.41", Semconv::V1_41),
    ("both", Semconv::Both),
];
pub(in crate::settings) const LOG_FORMATS: [(&str, LogFormat); 3] = [
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
    ("auto", LogFormat::Auto),
];

pub(in crate::settings) const PROXY_PROTOCOL: [(&str, bool); 2] =
    [("off", false), ("required", true)];

pub(in crate::settings) const NUM_CTX: [(&str, NumCtx); 2] =
    [("keep", NumCtx::Keep), ("exact", NumCtx::Exact)];

pub(in crate::settings) const WITHOUT_REDIS: [(&str, WithoutRedis); 3] = [
    ("share", WithoutRedis::Share),
    ("open", WithoutRedis::Open),
    ("closed", WithoutRedis::Closed),
];

pub(in crate::settings) const SLOTS_WITHOUT_REDIS: [(&str, WithoutRedis); 2] =
    [("share", WithoutRedis::Share), ("open", WithoutRedis::Open)];

/// The beginning of keys in Redis. In a cluster it is put in braces.
pub(in crate::settings) fn redis_prefix(text: &str) -> Parsed<String> {
    let is_fine = |c: char| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '*' | '?' | '[' | ']');
    match text.len() <= 64 && text.chars().all(is_fine) {
        true => Ok(text.to_owned()),
        false => Err("it may have up to 64 letters, digits and signs like : and -".to_owned()),
    }
}

/// The place of the id in the address of a trace.
const TRACE_ID: &str = "{trace_id}";

pub(in crate::settings) fn trace_url(text: &str) -> Parsed<String> {
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
pub(in crate::settings) fn log_filter(text: &str) -> Parsed<String> {
    check_log_filter(text)?;
    Ok(text.to_owned())
}

pub(in crate::settings) fn secret(text: &str) -> Parsed<Secret> {
    Ok(Secret::new(text))
}

/// The digests of keys, one per item.
pub(in crate::settings) fn digests(text: &str) -> Parsed<Vec<Secret>> {
    let lines = list(secret)(text)?;
    let keys = KeySet::from_lines(lines.iter().map(Secret::expose), Role::User);
    keys.map_err(|error| error.to_string())?;
    Ok(lines)
}

/// A header that names a user. It is removed from requests, so it cannot be one that they need.
pub(in crate::settings) fn user_header(text: &str) -> Parsed<HeaderName> {
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

/// One row per path; a path that is listed several times has all of the methods.
pub(in crate::settings) fn extra_paths(text: &str) -> Parsed<Vec<ExtraPath>> {
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
