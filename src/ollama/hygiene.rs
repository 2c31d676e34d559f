//! Which headers cross the gateway.
//!
//! A backend sees what the request is about and nothing of who sent it: Ollama copies headers
//! to its cloud. Hop-by-hop headers stay on their hop (RFC 9110 7.6.1).

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, RETRY_AFTER};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, StatusCode, Uri};
use llamatower_layers::{Operation, RouteMatch};
use smallvec::SmallVec;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A busy Ollama does not say when to come back: soon (RFC 9110 10.2.3, in seconds).
const BUSY_WAIT: HeaderValue = HeaderValue::from_static("1");

/// What belongs to one hop (RFC 9110 7.6.1), beside what `Connection` names.
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

/// Makes a client's request one of the gateway's own: path by the route table, no query, no
/// header that names the client or belongs to its connection. An upload alone may
/// [wait](super::hold) to be told that it may go on.
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

/// Makes a backend's answer one of the gateway's own: framing is the edge's business, a busy
/// server says when to come back, and no proxy in front may hold a stream back.
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

/// Whether the answer is a stream of lines or events.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|text| {
        text.starts_with(b"application/x-ndjson") || text.starts_with(b"text/event-stream")
    })
}

/// Removes these and what `Connection` names. It looks at the headers that are there instead of
/// asking for each that might be.
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
