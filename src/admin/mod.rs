//! The service of the admin listener: metrics, the status of backends, models and queue, and the
//! last choices of a backend.

mod decisions;
mod models;
mod status;

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::Instant;
use tower::Service;

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

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&(Method::GET | Method::HEAD), "/metrics") => page(
                Telemetry::METRICS_CONTENT_TYPE,
                self.telemetry.metrics_page().into(),
            ),
            (&(Method::GET | Method::HEAD), "/status") => json_page(&status::page(&*self.fleet)),
            (&(Method::GET | Method::HEAD), "/status/decisions") => {
                json_page(&decisions::page(&self.fleet.decisions(), Instant::now()))
            }
            (&(Method::GET | Method::HEAD), "/status/models") => {
                json_page(&models::page(&self.fleet.status(), &self.fleet.drifts()))
            }
            (_, "/metrics" | "/status" | "/status/decisions" | "/status/models") => {
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

fn json_page(content: &Value) -> Response<Full<Bytes>> {
    page("application/json", content.to_string().into())
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
