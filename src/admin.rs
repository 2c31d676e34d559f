//! The service of the admin listener: metrics, and the status of backends and queue.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::Service;

use crate::ollama::fleet::{Avoided, Drift, Resident};
use crate::telemetry::{FleetView, Telemetry};

/// Serves operators. `/health` is served by the edge.
#[derive(Clone)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    fleet: Arc<dyn FleetView>,
}

impl Admin {
    /// Serves the metrics of `telemetry` and the status of `fleet`.
    pub fn new(telemetry: Arc<Telemetry>, fleet: Arc<dyn FleetView>) -> Self {
        Self { telemetry, fleet }
    }

    /// The content of `/status`. Durations are in seconds.
    fn status(&self) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let backends = self.fleet.status().into_iter().map(|backend| {
            json!({
                "name": *backend.name,
                "is_up": backend.is_up,
                "version": backend.version.as_deref(),
                "installed": backend.installed,
                "resident": backend.resident.as_ref().map(|rows| rows.iter().map(resident).collect::<Value>()),
                "breaker": backend.breaker.name(),
                "in_flight": backend.in_flight,
                "slots": backend.slots,
                "max_in_flight": backend.rules.max_in_flight,
                "weight": backend.rules.weight,
                "labels": backend.rules.labels.iter().map(|label| &**label).collect::<Value>(),
                "avoided": backend.avoided.iter().map(avoided).collect::<Value>(),
            })
        });
        let queue = self.fleet.queue_status().into_iter().map(|row| {
            json!({
                "model": *row.model,
                "waiting": row.waiting,
                "in_flight": row.in_flight,
                "oldest": seconds(row.oldest),
                "predicted_wait": seconds(row.predicted_wait),
            })
        });
        json!({
            "backends": backends.collect::<Value>(),
            "queue": queue.collect::<Value>(),
            "digests_differ": self.fleet.drifts().iter().map(drift).collect::<Value>(),
        })
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&(Method::GET | Method::HEAD), "/metrics") => page(
                Telemetry::METRICS_CONTENT_TYPE,
                self.telemetry.metrics_page().into(),
            ),
            (&(Method::GET | Method::HEAD), "/status") => {
                page("application/json", self.status().to_string().into())
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

/// A model in a backend's memory; sizes are in bytes.
fn resident(row: &Resident) -> Value {
    json!({
        "model": row.name.to_string(),
        "size": row.size,
        "size_vram": row.size_vram,
        "context_length": row.context_length,
        "expires_at": row.expires_at.map(|time| time.to_string()),
    })
}

/// A name that stands for different models, and the backends that have each of them.
fn drift(drift: &Drift) -> Value {
    let digests = drift.digests.iter().map(|(digest, backends)| {
        let backends = backends.iter().map(|name| &**name);
        (digest.to_string(), backends.collect::<Value>())
    });
    let digests: serde_json::Map<_, _> = digests.collect();
    json!({ "model": drift.model.to_string(), "digests": digests })
}

/// Why a backend is avoided for a model; the time until the next trial is in seconds.
fn avoided(row: &Avoided) -> Value {
    json!({
        "model": row.model.to_string(),
        "reason": row.reason.name(),
        "failures": row.failures,
        "trial_in": row.trial_in.as_secs_f64(),
    })
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
