//! The stack: which layers stand in which order. Read it from top to bottom.
//!
//! [`service`] is what every request goes through; [`attempt`] is what belongs to one backend
//! and is gone through once for each attempt.

use std::convert::Infallible;
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::api_key::ApiKeyLayer;
use llamatower_layers::body::{MemoryBudget, ReplayBody};
use llamatower_layers::body_limit::{BodyLimitLayer, RouteLimits};
use llamatower_layers::breaker::{Breaker, BreakerLayer};
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable, RequireEndpointLayer};
use llamatower_layers::heartbeat::HeartbeatLayer;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::outcome::OutcomeLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::token_limit::{MemoryStore, TokenLimitLayer};
use llamatower_layers::usage::UsageLayer;
use llamatower_layers::{BoxError, Failure, LlmRequest, Operation, RouteMatch, Side};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder};
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::sensitive_headers::{
    SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer,
};
use uuid::Uuid;

use crate::client::Client;
use crate::live::{LiveSettings, TokenBudgets, runs_a_model};
use crate::ollama::fleet::{Backend, Fleet};
use crate::ollama::hold::hold_until_continue;
use crate::ollama::hygiene::{clean_request, clean_response};
use crate::ollama::upstream::{Access, ConnectFailed, PoolLimits, Upstream};
use crate::ollama::{self, Ollama};
use crate::settings::{Cache, Limits, Settings};
use crate::telemetry::{Propagation, Telemetry, Upstream as UpstreamName, attempt_spans, names};

/// Names the backend that gave an answer.
pub const BACKEND_HEADER: HeaderName = HeaderName::from_static("x-llamatower-backend");

/// What no log line and no `Debug` may show of a request.
const SECRET_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    PROXY_AUTHORIZATION,
    COOKIE,
];

/// The service of one backend; `B` is the body that clients send.
pub type Attempt<B> = ollama::Attempt<ReplayBody<B>>;

/// What the layers hold that somebody else looks at or turns, too.
#[derive(Clone, Debug)]
pub struct Handles {
    /// Cancelled when what is still under way is to end with an error.
    pub cutoff: CancellationToken,
    /// The memory for buffered bodies.
    pub body_memory: MemoryBudget,
}

/// What every request goes through.
pub fn service<B>(
    settings: &Settings,
    endpoints: EndpointTable,
    live: &LiveSettings,
    fleet: Arc<Fleet<Attempt<B>>>,
    telemetry: &Telemetry,
    handles: Handles,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + use<B>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ use<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let metrics = telemetry.metrics().clone();
    let limits = &settings.limits;
    ServiceBuilder::new()
        // What the request is, and who is told of it.
        .layer(SetSensitiveRequestHeadersLayer::new(SECRET_HEADERS))
        .layer(SetRequestIdLayer::x_request_id(RandomId))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(EndpointLayer::new(endpoints))
        .layer(OutcomeLayer::new(telemetry.observer()))
        .layer(telemetry.request_span_layer())
        // Outside of here nothing fails.
        .layer(
            RescueLayer::new()
                .with_cutoff(handles.cutoff)
                .with_hook(log_internal_error),
        )
        .layer(PanicGuardLayer::new().with_hook(|text| tracing::error!(text, "a panic")))
        // Cheap refusals, before a body is read.
        .layer(RequireEndpointLayer)
        .layer(
            ApiKeyLayer::new(live.keys.clone())
                .with_management_hint(
                    "set LLAMATOWER_ADMIN_KEYS to let somebody (`llamatower keygen` makes one)",
                )
                .with_deferred(|operation| operation == Operation::Pull),
        )
        .layer(live.rate.clone())
        .layer(live.key_rate.clone())
        .layer(live.listing_rate.clone())
        .layer(AdmissionLayer::new(limits.in_flight))
        // The body: read once, looked through once.
        .layer(
            BodyLimitLayer::new(handles.body_memory.clone())
                .with_route_limits(RouteLimits {
                    inference: limits.body,
                    ..RouteLimits::default()
                })
                .with_read_timeout(settings.timeouts.body_read),
        )
        .layer(
            LlmRequestLayer::new()
                .with_default_model(settings.backends.default_model.clone())
                .with_decoded_limit(limits.body)
                .with_memory_budget(handles.body_memory),
        )
        // Until an answer comes: what waits and asks again goes on beneath it.
        .layer(HeartbeatLayer::new(settings.timeouts.heartbeat))
        .layer(adaptive_limit(limits))
        .layer(cache(&settings.cache, &fleet))
        .layer(token_limit(limits, live.tokens.clone()))
        // Each attempt chooses anew, and keeps its place in line.
        .layer(
            RetryLayer::new(RetryBudget::new(
                settings.retry.budget_ratio,
                settings.retry.budget_floor,
            ))
            .with_attempts(settings.retry.attempts)
            .with_statuses_only_elsewhere()
            .with_observer(move |event| {
                if event.is_retry() {
                    metrics.retried(event.reason);
                }
            }),
        )
        .service(Ollama::new(fleet, settings.backends.management_host()))
}

/// What belongs to one backend.
pub fn attempt<B>(
    settings: &Settings,
    access: &Access,
    backend: &Arc<Backend>,
    breaker: &Breaker,
    propagation: Propagation,
) -> Attempt<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (timeouts, refusing) = (&settings.timeouts, backend.clone());
    let address = backend.address();
    let name = HeaderValue::try_from(&**backend.name()).unwrap_or(HeaderValue::from_static("?"));
    let limits = PoolLimits {
        max_idle: settings.backends.pool_idle.get(),
        idle_timeout: settings.backends.pool_idle_timeout,
    };
    let upstream = Upstream::with_access(address.clone(), timeouts.connect, limits, access);
    let pool = upstream.clone();
    backend.after_probe(move || pool.prune());
    let stack = ServiceBuilder::new()
        .layer(attempt_spans(
            UpstreamName {
                name: backend.name().clone(),
                provider: names::OLLAMA,
                address: address.host().into(),
                port: address.port(),
            },
            propagation,
        ))
        .layer(UsageLayer::new())
        .layer(
            BreakerLayer::new(breaker.clone())
                // Whom to leave alone is decided by the choice, which knows who else there is.
                .without_refusals()
                .with_failures(counts_for_breaker),
        )
        .map_err(move |error: BoxError| {
            refusing.mark_unreachable(&error);
            error
        })
        .layer(
            StreamClocksLayer::new()
                .with_first_byte(timeouts.first_byte)
                .with_idle(timeouts.idle)
                .with_total(timeouts.total)
                .with_quiet(manages_models, timeouts.management),
        )
        .map_request(clean_request)
        .layer(SetSensitiveResponseHeadersLayer::new([SET_COOKIE]))
        .map_request(hold_until_continue)
        .service(upstream);
    ollama::attempt(stack, move |answer| {
        clean_response(answer);
        answer.headers.insert(BACKEND_HEADER, name.clone());
    })
}

/// Makes the ids of requests that bring none, without a system call for each.
#[derive(Clone, Copy, Debug)]
struct RandomId;

impl MakeRequestId for RandomId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).ok().map(RequestId::new)
    }
}

/// Refuses what would make first bytes come late, if there is a target for them.
fn adaptive_limit(limits: &Limits) -> AdaptiveLayer {
    // The head of an answer that is no stream comes with its end.
    let streams =
        |request: &Parts| LlmRequest::of(&request.extensions).is_some_and(|request| request.stream);
    match limits.first_byte_target {
        Some(target) => AdaptiveLayer::new(target)
            .with_bounds(NonZeroUsize::MIN, limits.in_flight)
            .with_measured(streams),
        None => AdaptiveLayer::off(),
    }
}

/// Answers that need not be computed twice, apart for each client; off without room for them.
fn cache<S: Send + Sync + 'static>(settings: &Cache, fleet: &Arc<Fleet<S>>) -> CacheLayer {
    let fleet = fleet.clone();
    let max_bytes = settings.max_bytes.unwrap_or(0);
    CacheLayer::new(max_bytes, move |request| fleet.version_of(request))
        .with_tenant(|request| Client::of(request).map(|client| client.to_string().into()))
        .with_time_to_live(settings.time_to_live)
}

/// The tokens of each client; free if there is no limit.
fn token_limit(
    limits: &Limits,
    budgets: TokenBudgets,
) -> TokenLimitLayer<Client, impl Fn(&Parts) -> Option<Client> + Clone + use<>> {
    let key_of = |request: &Parts| match runs_a_model(request) {
        true => Client::of(request),
        false => None,
    };
    let store = MemoryStore::new(limits.time_zone.clone());
    TokenLimitLayer::with_store(store, [], key_of)
        .with_switch(budgets.is_on.clone())
        .with_budgets_of(move |client| Some(budgets.of(client)))
}

fn manages_models(request: &Parts) -> bool {
    RouteMatch::of(&request.extensions)
        .and_then(RouteMatch::operation)
        .is_some_and(Operation::is_management)
}

/// A refused connection is not: it costs nothing, says what is wrong, and the backend counts as down
/// until a probe finds it again.
fn counts_for_breaker(failure: &Failure) -> bool {
    failure.side() == Side::Upstream && failure.caused_by::<ConnectFailed>().is_none()
}

/// A client is told nothing of an error that has no words for clients.
fn log_internal_error(error: &(dyn Error + Send + Sync + 'static)) {
    if Failure::find(error).is_none() {
        tracing::error!(%error, "a request failed");
    }
}
