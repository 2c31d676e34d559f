//! The service of the admin listener: metrics, and how the backends and the queue stand.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tower::Service;

use crate::ollama::fleet::{BackendStatus, QueueStatus};
use crate::telemetry::Telemetry;

/// Answers operators. `/health` is the edge's.
#[derive(Clone)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    status: Arc<dyn Fn() -> Status + Send + Sync>,
}

/// What `/status` says. Durations are in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    backends: Vec<BackendRow>,
    queue: Vec<QueueRow>,
}

#[derive(Clone, Debug, Serialize)]
struct BackendRow {
    name: String,
    is_up: bool,
    breaker: &'static str,
    in_flight: usize,
    slots: Option<NonZeroUsize>,
}

#[derive(Clone, Debug, Serialize)]
struct QueueRow {
    model: String,
    waiting: usize,
    in_flight: usize,
    oldest: Option<f64>,
    predicted_wait: Option<f64>,
}

impl Status {
    /// How these backends and this queue stand.
    pub fn of(backends: &[BackendStatus], queue: &[QueueStatus]) -> Self {
        let backends = backends.iter().map(|backend| BackendRow {
            name: backend.name.to_string(),
            is_up: backend.is_up,
            breaker: backend.breaker.name(),
            in_flight: backend.in_flight,
            slots: backend.slots,
        });
        let queue = queue.iter().map(|row| QueueRow {
            model: row.model.to_string(),
            waiting: row.waiting,
            in_flight: row.in_flight,
            oldest: row.oldest.map(|time| time.as_secs_f64()),
            predicted_wait: row.predicted_wait.map(|time| time.as_secs_f64()),
        });
        Self {
            backends: backends.collect(),
            queue: queue.collect(),
        }
    }
}

impl Admin {
    /// Serves what `telemetry` has counted, and what `status` says.
    pub fn new(telemetry: Arc<Telemetry>, status: Arc<dyn Fn() -> Status + Send + Sync>) -> Self {
        Self { telemetry, status }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&(Method::GET | Method::HEAD), "/metrics") => page(
                Telemetry::METRICS_CONTENT_TYPE,
                self.telemetry.metrics_page().into(),
            ),
            (&(Method::GET | Method::HEAD), "/status") => {
                match serde_json::to_vec(&(self.status)()) {
                    Ok(text) => page("application/json", text.into()),
                    Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error"),
                }
            }
            (_, "/metrics" | "/status") => {
                let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
                answer
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            _ => refusal(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Admin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(request.method(), request.uri().path())))
    }
}

fn page(content_type: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text));
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = page("text/plain; charset=utf-8", text.into());
    *answer.status_mut() = status;
    answer
}
