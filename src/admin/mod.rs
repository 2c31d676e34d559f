//! The service of the admin listener: metrics, the status of backends, models and queue, and the
//! last choices of a backend.

mod backends;
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
use llamatower_layers::api_key::{ApiKeyLayer, KeySet};
use llamatower_layers::live::Live;
use llamatower_layers::{BoxError, Failure};
use serde_json::Value;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::cloud::Cloud;
use crate::model_sync::SyncStatus;
use crate::telemetry::{FleetView, Telemetry};
use backends::Verb;

/// The service of the admin listener. Changes from other machines need an administrator's key.
pub fn service<B: Send + 'static>(
    admin: Admin,
    keys: impl Into<Live<KeySet>>,
) -> impl Service<
    Request<B>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let keys = ApiKeyLayer::new(keys)
        .with_rule(backends::access)
        .with_management_hint(
            "set LLAMATOWER_ADMIN_KEYS (`llamatower keygen --admin` generates a key)",
        );
    let checked = keys.layer(admin);
    service_fn(move |request| {
        let answer = checked.clone().oneshot(request);
        async {
            Ok(answer
                .await
                .unwrap_or_else(|error: BoxError| refused(&error)))
        }
    })
}

/// The answer to a request without the key that it needs.
fn refused(error: &BoxError) -> Response<Full<Bytes>> {
    match Failure::find(&**error) {
        Some(failure) => {
            let mut answer = refusal(failure.status(), failure.to_string());
            failure.write_headers(answer.headers_mut());
            answer
        }
        None => refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error"),
    }
}

/// Serves operators. `/health` is served by the edge.
#[derive(Clone)]
pub struct Admin {
    telemetry: Arc<Telemetry>,
    fleet: Arc<dyn FleetView>,
    cloud: Option<Arc<Cloud>>,
    sync: SyncStatus,
}

impl Admin {
    /// Serves the metrics of `telemetry` and the status of `fleet`.
    pub fn new(telemetry: Arc<Telemetry>, fleet: Arc<dyn FleetView>) -> Self {
        Self {
            telemetry,
            fleet,
            cloud: None,
            sync: SyncStatus::default(),
        }
    }

    /// Also serves the status of the cloud service.
    #[must_use]
    pub fn with_cloud(self, cloud: Option<Arc<Cloud>>) -> Self {
        Self { cloud, ..self }
    }

    /// Also serves the status of the declared models.
    #[must_use]
    pub fn with_sync(self, sync: SyncStatus) -> Self {
        Self { sync, ..self }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&(Method::GET | Method::HEAD), "/metrics") => page(
                Telemetry::METRICS_CONTENT_TYPE,
                self.telemetry.metrics_page().into(),
            ),
            (&(Method::GET | Method::HEAD), "/status") => {
                let cloud = self.cloud.as_ref().map(|cloud| cloud.status());
                let sync = self.sync.report();
                json_page(&status::page(&*self.fleet, cloud.as_ref(), &sync))
            }
            (&(Method::GET | Method::HEAD), "/status/decisions") => {
                json_page(&decisions::page(&self.fleet.decisions(), Instant::now()))
            }
            (&(Method::GET | Method::HEAD), "/status/models") => {
                json_page(&models::page(&self.fleet.status(), &self.fleet.drifts()))
            }
            (_, "/metrics" | "/status" | "/status/decisions" | "/status/models") => {
                wrong_method("GET, HEAD")
            }
            (&Method::POST, path) if let Some(verb) = Verb::of(path) => {
                match verb.apply(&*self.fleet) {
                    Some(done) => json_page(&done),
                    None => refusal(StatusCode::NOT_FOUND, "404 there is no such backend"),
                }
            }
            (_, path) if Verb::of(path).is_some() => wrong_method("POST"),
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

fn wrong_method(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
    let allowed = HeaderValue::from_static(allowed);
    answer.headers_mut().insert(ALLOW, allowed);
    answer
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

fn refusal(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = page("text/plain; charset=utf-8", text.into());
    *answer.status_mut() = status;
    answer
}
