//! Rules of this hop for requests and responses, for both kinds of client.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body;
use llamatower_layers::retry::Attempts;
use llamatower_layers::{BoxError, Failure, Operation, RouteMatch};

use super::{Access, Address, InvalidAnswer};

/// Why hyper's client rejects a response.
pub(super) const NO_ANSWER: &str = "it is not an HTTP/1.1 response, or its head is too large";

/// The common part of all requests to one backend.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    authorization: Option<HeaderValue>,
}

/// Whether a request may use a connection that has served other requests.
///
/// A server may close such a connection while the request is in transit. It is then unknown whether
/// the server has started the request. A request that must not be sent twice therefore gets a new
/// connection, which no server closes for being idle. So does one that is sent again: a server that
/// closes an idle connection often closes several, and the next one would be lost as well.
pub(super) fn may_share_a_connection<B>(request: &Request<B>) -> bool {
    let extensions = request.extensions();
    let is_repeated = Attempts::of(extensions).is_some_and(|attempts| attempts.number() > 1);
    let operation = RouteMatch::of(extensions).and_then(RouteMatch::operation);
    !is_repeated && operation.is_none_or(Operation::is_replayable)
}

impl Target {
    pub(super) fn new(address: Address, access: &Access) -> Self {
        Self {
            authorization: access.authorization_for(&address),
            address,
        }
    }

    /// Sets version, `Host`, the token and framing (RFC 9112 6.3).
    pub(super) fn prepare<B: Body<Data = Bytes>>(&self, request: &mut Request<B>) {
        let length = request.body().size_hint().exact();
        let is_empty = request.body().is_end_stream();
        let expects_a_body = matches!(
            *request.method(),
            Method::POST | Method::PUT | Method::PATCH
        );
        if !self.address.prefix().is_empty() {
            self.put_prefix(request.uri_mut());
        }
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.insert(HOST, self.address.authority_header());
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // hyper writes the framing of a body of unknown length.
        if has_transfer_encoding(headers) {
            headers.remove(TRANSFER_ENCODING);
        }
        match length.or(is_empty.then_some(0)) {
            // A server may wait for the body of such a request (RFC 9110 8.6).
            Some(0) if !expects_a_body => {
                headers.remove(CONTENT_LENGTH);
            }
            Some(length) if !has_length(headers, length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            _ => {}
        }
    }

    fn put_prefix(&self, uri: &mut Uri) {
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = format!("{}{path}", self.address.prefix());
        if let Ok(path) = PathAndQuery::try_from(path) {
            *uri = Uri::from(path);
        }
    }

    /// Rejects a response that cannot be passed on.
    pub(super) fn check(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), BoxError> {
        match not_acceptable(status, headers) {
            Some(reason) => Err(self.invalid(reason)),
            None => Ok(()),
        }
    }

    pub(super) fn invalid(&self, reason: &'static str) -> BoxError {
        Failure::from(InvalidAnswer::new(&self.address, reason)).into()
    }
}

/// Comparing a few names is cheaper than a lookup.
fn has_transfer_encoding(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == TRANSFER_ENCODING)
}

/// Whether there is one `Content-Length`, with this value as it would be written.
fn has_length(headers: &HeaderMap, length: u64) -> bool {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let text = value.to_str().unwrap_or_default();
    text.starts_with(|first: char| matches!(first, '1'..='9')) && text.parse() == Ok(length)
}

/// Rejects framing that two parsers could understand differently (RFC 9112 6.3, 11.2), and a
/// transfer coding that hyper would leave in the body.
fn not_acceptable(status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Some("it switched protocols although no upgrade was requested");
    }
    if !has_transfer_encoding(headers) {
        return None;
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if headers.contains_key(CONTENT_LENGTH) {
        return Some("it has both Transfer-Encoding and Content-Length");
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Some("its Transfer-Encoding is not chunked");
    }
    None
}
