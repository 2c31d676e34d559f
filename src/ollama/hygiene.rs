//! Which headers pass through the gateway.
//!
//! A backend gets the headers that describe the request, and none that describe the client, because
//! Ollama copies headers to its cloud. Hop-by-hop headers are removed (RFC 9110 7.6.1).

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, RETRY_AFTER};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, StatusCode, Uri};
use llamatower_layers::{Operation, RouteMatch};
use smallvec::SmallVec;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `Retry-After` of a busy Ollama, which sends none (RFC 9110 10.2.3, in seconds).
const BUSY_WAIT: HeaderValue = HeaderValue::from_static("1");

/// Whether a header belongs to one hop (RFC 9110 7.6.1), apart from those that `Connection` names.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

fn is_about_the_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "x-api-key"
            | "cookie"
            | "origin"
            | "referer"
            | "forwarded"
            | "x-real-ip"
    ) || name.starts_with("x-forwarded-")
}

/// Rewrites a client's request for the backend: the path of the route table, no query, and no
/// header that identifies the client or belongs to its connection. Only an upload may keep
/// [`Expect: 100-continue`](super::hold).
pub fn clean_request<B>(mut request: Request<B>) -> Request<B> {
    let route = RouteMatch::of(request.extensions());
    let may_wait = route.and_then(RouteMatch::operation) == Some(Operation::Blob);
    let rebuilt = route.and_then(|route| {
        let (path, uri) = (route.upstream_path()?, request.uri());
        let is_it = uri.path() == path && uri.query().is_none() && uri.authority().is_none();
        (!is_it).then(|| PathAndQuery::try_from(&*path).ok())?
    });
    if let Some(path) = rebuilt {
        *request.uri_mut() = Uri::from(path);
    }
    remove_all(request.headers_mut(), |name| {
        is_hop_by_hop(name) || is_about_the_client(name) || (*name == EXPECT && !may_wait)
    });
    request
}

/// Rewrites a backend's response for the client: the edge sets the framing, a busy server's
/// response gets `Retry-After`, and proxies are told not to buffer a stream.
pub fn clean_response(answer: &mut Parts) {
    let headers = &mut answer.headers;
    remove_all(headers, is_hop_by_hop);
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.entry(RETRY_AFTER).or_insert(BUSY_WAIT);
    }
    if is_stream(headers) {
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
}

/// Whether the response is a stream of lines or events.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|text| {
        text.starts_with(b"application/x-ndjson") || text.starts_with(b"text/event-stream")
    })
}

/// Removes these headers and those that `Connection` names. It iterates over the headers that are
/// present, which is cheaper than a lookup of each unwanted one.
fn remove_all(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| is_unwanted(name))
        .cloned()
        .collect();
    if unwanted.contains(&CONNECTION) {
        remove_named_by_connection(headers);
    }
    for name in unwanted {
        headers.remove(name);
    }
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            !matches!(name.as_str(), "content-type" | "content-length" | "host")
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
}
