//! The layers and the client of the service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{FutureExt, TryFutureExt};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::store::WithoutKey;
use llamatower_layers::token_limit::{Budget, TokenLimitLayer, Window};
use llamatower_layers::usage::UsageLayer;
use llamatower_layers::{BoxError, Record};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use super::{Cloud, NAME, broken, refused};
use crate::clients::Client;
use crate::ollama;
use crate::ollama::hygiene::{clean_request, clean_response};
use crate::ollama::upstream::{PoolLimits, Upstream};
use crate::openai::Translate;
use crate::settings::Settings;
use crate::shared::Tokens;
use crate::stack::BACKEND_HEADER;
use crate::telemetry::{Tracer, Upstream as UpstreamName, attempt_spans};

/// The request headers that the service gets, besides those of its client.
const SENT: [HeaderName; 2] = [ACCEPT, CONTENT_TYPE];

/// The headers of its answers that clients get. The others are about the gateway's account.
const PASSED_ON: [HeaderName; 2] = [CONTENT_LENGTH, CONTENT_TYPE];

/// The service of the cloud, like one backend's.
pub fn leaf<B>(
    settings: &Settings,
    cloud: &Arc<Cloud>,
    tracer: Tracer,
) -> ollama::Attempt<ReplayBody<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let timeouts = &settings.timeouts;
    let address = cloud.address.clone();
    let limits = PoolLimits {
        max_idle: settings.backends.pool_idle.get(),
        idle_timeout: settings.backends.pool_idle_timeout,
    };
    let upstream = Upstream::with_access(address.clone(), timeouts.connect, limits, &cloud.access);
    let (server, watched) = (cloud.server.clone(), cloud.clone());
    let expecting = cloud.clone();
    let stack = ServiceBuilder::new()
        .layer(
            TokenLimitLayer::with_store(cloud.used.clone(), [cloud.budget()], |_: &Parts| Some(()))
                .with_shared_budgets()
                .with_expected_output(move |request| expecting.expected_output(request))
                .with_deadline(cloud.deadline)
                .when_unavailable(cloud.when_unavailable),
        )
        .layer(key_tokens(cloud))
        .map_request(record)
        .layer(attempt_spans(
            UpstreamName {
                name: NAME.into(),
                provider: cloud.provider(),
                base: address.url().into(),
                address: address.host().into(),
                port: address.port(),
            },
            tracer,
        ))
        .layer(UsageLayer::new())
        .layer(
            StreamClocksLayer::new()
                .with_first_byte(timeouts.first_byte)
                .with_idle(timeouts.idle)
                .with_total(timeouts.total),
        )
        .map_request(for_the_service)
        .map_response(broken::watch)
        .layer_fn(move |client| Translate::new(client, Some(server.clone())))
        .layer_fn(move |inner| Noted {
            inner,
            cloud: watched.clone(),
        })
        .service(upstream);
    let leaf = ollama::attempt(stack, |answer| {
        keep_only(&mut answer.headers, &PASSED_ON);
        clean_response(answer);
        let headers = &mut answer.headers;
        headers.insert(BACKEND_HEADER, HeaderValue::from_static(NAME));
        // The cache of the gateway is for the fleet's model.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    });
    ollama::Attempt::new(service_fn(move |request: Request<ReplayBody<B>>| {
        let record = Record::of(request.extensions()).cloned();
        let answer = leaf.clone().oneshot(request);
        answer.and_then(|answer| refused::log(answer, record))
    }))
}

/// Limits the tokens of each client on one day.
fn key_tokens(
    cloud: &Arc<Cloud>,
) -> TokenLimitLayer<Client, impl Fn(&Parts) -> Option<Client> + Clone + use<>, Tokens<Client>> {
    let budget = cloud
        .key_tokens
        .map(|tokens| Budget::new(tokens, Window::Day));
    let expecting = cloud.clone();
    TokenLimitLayer::with_store(cloud.used_by_client.clone(), budget, Client::account_of)
        .without_key(WithoutKey::Admit)
        .with_expected_output(move |request| expecting.expected_output(request))
        .with_deadline(cloud.deadline)
        .when_unavailable(cloud.when_unavailable)
        .with_enabled(budget.is_some())
}

fn record<B>(request: Request<B>) -> Request<B> {
    Record::update_in(request.extensions(), |outcome| {
        outcome.backend = Some(NAME.into());
        // That of a server that was tried before.
        outcome.choice = None;
        outcome.attempts += 1;
    });
    request
}

/// Leaves only what describes the body, and asks for an answer that can be read.
fn for_the_service<B>(mut request: Request<B>) -> Request<B> {
    clean_request(&mut request);
    let headers = request.headers_mut();
    keep_only(headers, &SENT);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    request
}

fn keep_only(headers: &mut HeaderMap, kept: &[HeaderName]) {
    let mut left = HeaderMap::with_capacity(kept.len() + 2);
    for name in kept {
        left.extend(headers.remove(name).map(|value| (name.clone(), value)));
    }
    *headers = left;
}

/// Notes the results of requests, for the rest of the service.
#[derive(Clone, Debug)]
struct Noted<S> {
    inner: S,
    cloud: Arc<Cloud>,
}

impl<S, B, R> Service<Request<B>> for Noted<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let (client, cloud) = (Client::of(&parts), self.cloud.clone());
        let answer = self.inner.call(Request::from_parts(parts, body));
        Box::pin(answer.inspect(move |answer| cloud.rest.note(client, answer)))
    }
}
