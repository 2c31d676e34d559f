//! The metrics, on the admin listener and on one of their own.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use http::{Request, StatusCode};
use tower::{Service, service_fn};

use super::answer::{self, Answer};
use crate::telemetry::Telemetry;

/// The path of the metrics.
pub(super) const PATH: &str = "/metrics";

/// The service of a listener that serves the metrics and nothing else.
pub fn metrics_service<B: Send + 'static>(
    telemetry: Arc<Telemetry>,
) -> impl Service<Request<B>, Response = Answer, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    service_fn(move |request: Request<B>| {
        let is_read = answer::is_read(request.method());
        let answer = match request.uri().path() {
            PATH if is_read => page(&telemetry),
            PATH => answer::wrong_method("GET, HEAD"),
            _ => answer::refusal(StatusCode::NOT_FOUND, "404 page not found"),
        };
        ready(Ok(answer))
    })
}

/// The page of the metrics.
pub(super) fn page(telemetry: &Telemetry) -> Answer {
    answer::page(Telemetry::METRICS_CONTENT_TYPE, telemetry.metrics_page())
}
