//! The service of the admin listener: metrics, for now; status and configuration will be here.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;

use crate::telemetry::Telemetry;

/// Answers operators. `/health` is the edge's.
#[derive(Clone, Debug)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
}

impl Admin {
    /// Serves what `telemetry` has counted.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&(Method::GET | Method::HEAD), "/metrics") => page(
                Telemetry::METRICS_CONTENT_TYPE,
                self.telemetry.metrics_page().into(),
            ),
            (_, "/metrics") => {
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
