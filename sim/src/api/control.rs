//! The control routes under `/sim`.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use crate::fault::Fault;
use crate::sim::Server;
use crate::wire::{SimBody, answer};

/// Answers a request to the control API.
pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<SimBody> {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return answer::empty(StatusCode::BAD_REQUEST),
    };
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/sim/requests") => answer::ok(&server.log.requests()),
        (&Method::DELETE, "/sim/requests") => {
            server.log.clear();
            answer::empty(StatusCode::NO_CONTENT)
        }
        (&Method::GET, "/sim/state") => answer::ok(&server.state()),
        (&Method::GET, "/sim/faults") => answer::ok(&server.faults.list()),
        (&Method::DELETE, "/sim/faults") => {
            server.faults.clear();
            answer::empty(StatusCode::NO_CONTENT)
        }
        (&Method::POST, "/sim/faults") => match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => match server.arm(fault) {
                Ok(()) => answer::empty(StatusCode::NO_CONTENT),
                Err(reason) => refusal(reason),
            },
            Err(error) => refusal(&error.to_string()),
        },
        _ => answer::unknown_path(),
    }
}

fn refusal(reason: &str) -> Response<SimBody> {
    let mut answer = answer::ok(&json!({ "error": reason }));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer
}
