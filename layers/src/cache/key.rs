//! The cache key: when two requests count as equal.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Dialect, Endpoint, Operation, RouteMatch};

/// A digest of the model's version, the tenant, the route and the canonical request.
pub(super) type Key = [u8; 32];

/// Larger requests are not cached.
const MAX_REQUEST: usize = 1 << 20;

/// Whether and how a request uses the cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The request uses the cache, with this key.
    By(Key),
    /// The client asked not to use the cache.
    Declined,
    /// The response to this request cannot be cached.
    NotCacheable,
}

/// The lookup for a request with this body. `version` gives the version of its model.
pub(super) fn lookup(
    request: &Parts,
    body: &[Bytes],
    version: impl FnOnce() -> Option<std::sync::Arc<str>>,
    tenant: impl FnOnce() -> Option<std::sync::Arc<str>>,
) -> Lookup {
    let Some(endpoint) = cacheable_endpoint(request) else {
        return Lookup::NotCacheable;
    };
    if body.iter().map(Bytes::len).sum::<usize>() > MAX_REQUEST {
        return Lookup::NotCacheable;
    }
    let body = match body {
        [body] => Cow::Borrowed(&**body),
        pieces => Cow::Owned(pieces.concat()),
    };
    let Some(fields) = parse(&body).filter(|fields| is_deterministic(endpoint, fields)) else {
        return Lookup::NotCacheable;
    };
    if declines(request) {
        return Lookup::Declined;
    }
    let Some(version) = version() else {
        return Lookup::NotCacheable;
    };
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(version.as_bytes());
    part(tenant().as_deref().unwrap_or_default().as_bytes());
    part(endpoint.route.as_bytes());
    for (name, value) in canonical(fields) {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    Lookup::By(hasher.finalize().into())
}

fn cacheable_endpoint(request: &Parts) -> Option<&Endpoint> {
    let RouteMatch::Found { endpoint, .. } = RouteMatch::of(&request.extensions)? else {
        return None;
    };
    let is_cacheable = matches!(
        endpoint.operation,
        Operation::Embed | Operation::Chat | Operation::Generate
    );
    (is_cacheable && request.method == Method::POST).then_some(endpoint)
}

/// Whether the client asks for a fresh answer (RFC 9111 5.2.1).
fn declines(request: &Parts) -> bool {
    let values = request.headers.get_all(CACHE_CONTROL).iter();
    values.filter_map(|value| value.to_str().ok()).any(|value| {
        let mut directives = value.split(',').map(str::trim);
        directives
            .any(|one| one.eq_ignore_ascii_case("no-store") || one.eq_ignore_ascii_case("no-cache"))
    })
}

/// The members of a request, each with its text.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

fn parse(body: &[u8]) -> Option<Fields<'_>> {
    serde_json::from_slice(body).ok()
}

fn value(fields: &Fields<'_>, name: &str) -> Option<Value> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

fn is_deterministic(endpoint: &Endpoint, fields: &Fields<'_>) -> bool {
    // A request that loads or unloads a model must reach the backend.
    let has_prompt = ["prompt", "messages", "input"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(|text| !is_empty(text.get())));
    if !has_prompt || value(fields, "keep_alive").as_ref().is_some_and(unloads) {
        return false;
    }
    if endpoint.operation == Operation::Embed {
        return true;
    }
    let (temperature, seed) = match endpoint.dialect {
        Dialect::Ollama => match value(fields, "options") {
            Some(Value::Object(options)) => {
                let option = |name: &str| options.get(name).cloned();
                (option("temperature"), option("seed"))
            }
            _ => return false,
        },
        _ => (value(fields, "temperature"), value(fields, "seed")),
    };
    let has_zero_temperature = temperature.as_ref().and_then(Value::as_f64) == Some(0.0);
    has_zero_temperature || seed.as_ref().is_some_and(is_seed)
}

/// Whether a `keep_alive` unloads the model: 0, or a duration without a digit above 0, as `0m` or `0h0s`.
fn unloads(keep_alive: &Value) -> bool {
    match keep_alive {
        Value::String(text) => !text.contains(|digit| matches!(digit, '1'..='9')),
        value => value.as_f64() == Some(0.0),
    }
}

/// Whether a seed makes the answer repeatable. -1 is Ollama's default: another seed for each request.
fn is_seed(value: &Value) -> bool {
    value.is_u64() || value.as_i64().is_some_and(|seed| seed != -1)
}

/// Whether the text of a value is that of null, an empty string or an empty array.
fn is_empty(text: &str) -> bool {
    let items = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    matches!(text, "null" | r#""""#) || items.is_some_and(|items| items.trim().is_empty())
}

/// The members in the order of their names, each with its text: within a value the order can matter, as
/// in a schema, whose properties a model writes in the order in which they stand there. The members of
/// `options` are sorted too.
fn canonical(mut fields: Fields<'_>) -> impl Iterator<Item = (String, Cow<'_, str>)> {
    fields.remove("keep_alive");
    fields.into_iter().map(|(name, text)| {
        let options = match &*name {
            "options" => serde_json::from_str::<Value>(text.get()).ok(),
            _ => None,
        };
        let text = match options {
            Some(mut options) => {
                // Whatever order this build of serde_json keeps.
                options.sort_all_objects();
                Cow::Owned(options.to_string())
            }
            None => Cow::Borrowed(text.get()),
        };
        (name, text)
    })
}
