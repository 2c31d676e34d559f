//! The responses of the admin listener.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;

/// A response of the admin listener.
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) fn json(document: &impl Serialize) -> Answer {
    match serde_json::to_vec(document) {
        Ok(text) => page("application/json", text),
        Err(error) => {
            tracing::error!(%error, "a document for operators cannot be written as JSON");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error")
        }
    }
}

pub(super) fn page(content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    with_body(content_type, Full::new(text.into()).boxed_unsync())
}

pub(super) fn with_body(
    content_type: &'static str,
    body: UnsyncBoxBody<Bytes, Infallible>,
) -> Answer {
    let mut answer = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// Whether a request reads.
pub(super) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

pub(super) fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
    let allowed = HeaderValue::from_static(allowed);
    answer.headers_mut().insert(ALLOW, allowed);
    answer
}

pub(super) fn refusal(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = page("text/plain; charset=utf-8", text);
    *answer.status_mut() = status;
    answer
}
