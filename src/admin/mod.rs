//! The service of the admin listener: metrics, the status page, the documents behind it, and what
//! operators can do.
//!
//! ```text
//! GET  /                     the status page       (from other machines after sign-in, or with
//! GET  /status/overview      all that it shows      an administrator's key)
//! GET  /status/events        the same, live
//! GET  /status/usage         what keys have used
//! GET  /status/settings      the settings in force, for `llamatower check --diff`
//! GET  /status, /status/..   documents             (open)
//! GET  /metrics              metrics               (open)
//! POST /backends/NAME/..     cordon, uncordon,     (from other machines after sign-in, or with
//!                            load, unload           an administrator's key)
//! POST /queue/ID/cancel      ends a wait
//! ```
//!
//! `/health` is served by the edge.

mod access;
mod actions;
mod answer;
mod live;
mod metrics;
mod page;
mod session;
mod sign_in;
mod sources;
mod usage;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Either;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body::Body;
use llamatower_layers::BoxError;
use llamatower_layers::api_key::{ApiKeyLayer, KeySet};
use llamatower_layers::live::Live;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::status::Decisions;
use access::Asked;
use actions::Action;
use live::Events;
use session::Sessions;
use sign_in::SignIn;

pub use answer::Answer;
pub use metrics::metrics_service;
pub use sources::Sources;

/// The service of the admin listener, which accepts these administrators' keys; `checked_keys` is the
/// layer that checks them. Live events are
/// sent by a task of the current runtime; it ends when the service is dropped.
pub fn service<B>(
    sources: Sources,
    keys: Live<KeySet>,
    checked_keys: ApiKeyLayer,
) -> impl Service<Request<B>, Response = Answer, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let sources = Arc::new(sources);
    let admin = Arc::new(Admin {
        events: Events::start(sources.clone()),
        sessions: Sessions::new(keys.clone()),
        sources,
    });
    let signing = SignIn::new(&checked_keys, admin.sessions.clone());
    let checked = ServiceBuilder::new()
        .layer(access::layer(checked_keys, admin.sessions.clone()))
        .service(service_fn(move |request: Request<B>| {
            let (admin, request) = (admin.clone(), request.into_parts().0);
            async move { Ok::<_, Infallible>(admin.answer(&request).await) }
        }));
    service_fn(move |request: Request<B>| {
        if session::is_form(&request) {
            return Either::Left(signing.clone().answer(request).map(Ok));
        }
        let (asked, keys) = (Asked::of(&request), keys.clone());
        let answering = checked.clone().oneshot(request);
        Either::Right(async move {
            let answer = answering.await;
            Ok(
                answer
                    .unwrap_or_else(|error: BoxError| access::refused(&error, asked, &keys.get())),
            )
        })
    })
}

/// Serves operators.
struct Admin {
    sources: Arc<Sources>,
    events: Arc<Events>,
    sessions: Sessions,
}

impl Admin {
    async fn answer(&self, request: &Parts) -> Answer {
        let (method, path) = (&request.method, request.uri.path());
        if let Some(action) = Action::of(&request.uri) {
            return match *method {
                Method::POST => action.apply(self.sources.fleet.clone()).await,
                _ => answer::wrong_method("POST"),
            };
        }
        let is_read = answer::is_read(method);
        if path == "/status/usage" {
            if !is_read {
                return answer::wrong_method("GET, HEAD");
            }
            let query = request.uri.query().unwrap_or_default().to_owned();
            return usage::answer(
                self.sources.state.clone(),
                self.sources.shared_usage.clone(),
                query,
            )
            .await;
        }
        match self.page(path) {
            Some(_) if !is_read => answer::wrong_method("GET, HEAD"),
            Some(page) => page(self, request),
            None => answer::refusal(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    /// What answers to a path.
    fn page(&self, path: &str) -> Option<fn(&Self, &Parts) -> Answer> {
        Some(match path {
            metrics::PATH => |admin, _| metrics::page(admin.sources.telemetry()),
            "/status" => |admin, _| answer::json(&admin.sources.status()),
            "/status/decisions" => |admin, _| answer::json(&Decisions::of(admin.sources.fleet())),
            "/status/models" => |admin, _| answer::json(&admin.sources.models()),
            "/status/settings" => |admin, _| answer::json(&*admin.sources.live.in_force.get()),
            "/status/overview" => |admin, _| answer::json(&admin.sources.overview()),
            "/status/requests" => |admin, _| answer::json(&admin.sources.activity()),
            "/status/events" => {
                |admin, request| admin.events.answer(admin.sessions.right_of(request))
            }
            "/" => |_, _| page::status(),
            path => return page::asset(path),
        })
    }
}
