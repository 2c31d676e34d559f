//! Which headers pass through the gateway.
//!
//! A backend gets the headers that describe the request, and none that describe the client, because
//! Ollama copies headers to its cloud. Hop-by-hop headers are removed (RFC 9110 7.6.1).

use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, StatusCode, Uri};
use llamatower_layers::forward::remove_hop_by_hop;
use llamatower_layers::{Operation, RouteMatch};

/// `Accept-Encoding` of all requests to a server: the gateway reads the responses, which it cannot
/// do if a proxy in front of the server compresses them (RFC 9110 12.5.3).
pub(crate) const UNCOMPRESSED: HeaderValue = HeaderValue::from_static("identity");

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `Retry-After` of a busy Ollama, which sends none (RFC 9110 10.2.3, in seconds).
const BUSY_WAIT: HeaderValue = HeaderValue::from_static("1");

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
        // Open WebUI names its user, the chat and the message.
        || name.starts_with("x-openwebui-")
}

/// Rewrites a client's request for the backend: the path of the route table, no query, and no
/// header that identifies the client or belongs to its connection. The response must not be
/// compressed. Only an upload may keep [`Expect: 100-continue`](super::hold).
pub fn clean_request<B>(request: &mut Request<B>) {
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
    remove_hop_by_hop(request.headers_mut(), |name| {
        is_about_the_client(name) || (*name == EXPECT && !may_wait)
    });
    request.headers_mut().insert(ACCEPT_ENCODING, UNCOMPRESSED);
}

/// Rewrites a backend's response for the client: the edge sets the framing, a busy server's
/// response gets `Retry-After`, and proxies are told not to buffer a stream.
pub fn clean_response(answer: &mut Parts) {
    let headers = &mut answer.headers;
    remove_hop_by_hop(headers, |_| false);
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.entry(RETRY_AFTER).or_insert(BUSY_WAIT);
    }
    if is_stream(headers) {
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
}

/// Whether the response is compressed.
pub(crate) fn is_compressed(headers: &HeaderMap) -> bool {
    let is_coded = |coding: &HeaderValue| {
        !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    };
    // Few responses have the field, and comparing a few names is cheaper than a lookup.
    headers
        .iter()
        .any(|(name, coding)| *name == CONTENT_ENCODING && is_coded(coding))
}

/// Whether the response is a stream of lines or events.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|text| {
        text.starts_with(b"application/x-ndjson") || text.starts_with(b"text/event-stream")
    })
}
