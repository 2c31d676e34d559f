//! The cache key: when two requests count as equal.

use bytes::Bytes;
use http::Method;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use serde_json::{Map, Value};
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
    let Some(fields) = parse(body).filter(|fields| is_deterministic(endpoint, fields)) else {
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
    part(canonical(fields).as_bytes());
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

fn parse(body: &[Bytes]) -> Option<Map<String, Value>> {
    match body {
        [body] => serde_json::from_slice(body).ok(),
        pieces => serde_json::from_slice(&pieces.concat()).ok(),
    }
}

fn is_deterministic(endpoint: &Endpoint, fields: &Map<String, Value>) -> bool {
    // A request that loads or unloads a model must reach the backend.
    let has_prompt = ["prompt", "messages", "input"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(|value| !is_empty(value)));
    if !has_prompt || fields.get("keep_alive").is_some_and(unloads) {
        return false;
    }
    if endpoint.operation == Operation::Embed {
        return true;
    }
    let options = match endpoint.dialect {
        Dialect::Ollama => match fields.get("options").and_then(Value::as_object) {
            Some(options) => options,
            None => return false,
        },
        _ => fields,
    };
    let has_zero_temperature = options.get("temperature").and_then(Value::as_f64) == Some(0.0);
    has_zero_temperature || options.get("seed").is_some_and(is_seed)
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

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The request with sorted members, whatever order this build of serde_json keeps.
fn canonical(mut fields: Map<String, Value>) -> String {
    fields.remove("keep_alive");
    let mut value = Value::Object(fields);
    value.sort_all_objects();
    value.to_string()
}
