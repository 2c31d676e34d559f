//! The stack: the layers and their order. Read it from top to bottom.
//!
//! Every request passes through [`service`]. [`attempt`] belongs to one backend, and each attempt
//! passes through it.

use std::convert::Infallible;
use std::error::Error;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use jiff::Timestamp;
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::api_key::{ApiKeyLayer, KeySet};
use llamatower_layers::body::{MemoryBudget, ReplayBody};
use llamatower_layers::body_limit::{BodyLimitLayer, RouteLimits};
use llamatower_layers::breaker::{Breaker, BreakerLayer};
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::clocks::{LimitNames, StreamClocksLayer, StreamTimeouts};
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable, RequireEndpointLayer};
use llamatower_layers::heartbeat::HeartbeatLayer;
use llamatower_layers::live::Live;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::model_alias::ModelAliasLayer;
use llamatower_layers::outcome::OutcomeLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::redis::{Redis, RedisLimitsLayer};
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::store::WithoutKey;
use llamatower_layers::token_limit::TokenLimitLayer;
use llamatower_layers::usage::{UsageLayer, expected_text_tokens};
use llamatower_layers::{
    BoxError, Failure, LlmRequest, Observer, Operation, Outcome, RouteMatch, Side,
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder};
use tower_http::request_id::{
    MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::sensitive_headers::{
    SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer,
};
use uuid::Uuid;

use crate::activity::Activity;
use crate::clients::Client;
use crate::clients::model_rules::ModelRules;
use crate::clients::request_filter::RequestFilterLayer;
use crate::cloud::{self, Cloud, OllamaCloudModels, OverflowLayer};
use crate::live::{LiveSettings, TokenBudgets, runs_a_model};
use crate::ollama::down_clock::{DownClock, LIMIT_OF_LOOKUP, PROBES_OF_LOOKUP, is_lookup};
use crate::ollama::fleet::{Backend, Fleet, FleetModels, MayLoad};
use crate::ollama::hold::hold_until_continue;
use crate::ollama::hygiene::{clean_request, clean_response};
use crate::ollama::rewrite::RewriteLayer;
use crate::ollama::upstream::{Access, Address, ConnectFailed, PoolLimits, Upstream};
use crate::ollama::{self, Ollama};
use crate::openai::Translate;
use crate::reuse::Reuse;
use crate::settings::{Cache, Limits, Settings};
use crate::shared::{Rates, Tokens};
use crate::telemetry::{
    AttemptTelemetry, Metrics, Telemetry, Upstream as UpstreamName, attempt_spans, names,
};
use crate::usage::Usage;

/// The header that names the backend of a response.
pub const BACKEND_HEADER: HeaderName = HeaderName::from_static("x-llamatower-backend");

/// The header that names the model of a response to a request for an alias.
pub const MODEL_HEADER: HeaderName = HeaderName::from_static("x-llamatower-model");

/// Request headers that are never logged or shown by `Debug`.
const SECRET_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    PROXY_AUTHORIZATION,
    COOKIE,
];

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The settings of the stream clocks, for the texts of errors.
const USUAL_LIMITS: LimitNames = LimitNames {
    first_byte: "LLAMATOWER_FIRST_BYTE_TIMEOUT",
    idle: "LLAMATOWER_IDLE_TIMEOUT",
    total: "LLAMATOWER_TOTAL_TIMEOUT",
};

/// The same for requests that manage models.
const MANAGEMENT_LIMITS: LimitNames = LimitNames {
    first_byte: "LLAMATOWER_MANAGEMENT_TIMEOUT",
    idle: "LLAMATOWER_MANAGEMENT_TIMEOUT",
    ..USUAL_LIMITS
};

/// A limit on the tokens of each client.
type ClientTokens = TokenLimitLayer<Client, fn(&Parts) -> Option<Client>, Tokens<Client>>;

/// The service of one backend; `B` is the body that clients send.
pub type Attempt<B> = ollama::Attempt<ReplayBody<B>>;

/// Values of the layers that other parts of the gateway read or change.
#[derive(Clone, Debug)]
pub struct Handles {
    /// Cancelled when requests in flight must end with an error.
    pub cutoff: CancellationToken,
    /// The memory for buffered bodies.
    pub body_memory: MemoryBudget,
    /// The cloud service, if requests may be sent to one.
    pub cloud: Option<Arc<Cloud>>,
    /// The requests that have ended.
    pub activity: Arc<Activity>,
    /// What keys use, by model and day.
    pub usage: Arc<Usage>,
    /// The Redis that has the limits, if there is one.
    pub redis: Option<Redis>,
}

/// The layers for every request.
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
    let cloud_models = OllamaCloudModels(live.cloud_clients.clone());
    let user_tokens = token_limit(live.user_tokens.clone(), Client::user_of);
    let tokens = token_limit(live.tokens.clone(), Client::account_of);
    ServiceBuilder::new()
        // Identification and observation of the request.
        .layer(SetSensitiveRequestHeadersLayer::new(SECRET_HEADERS))
        .map_request(forget_unusable_request_id)
        .layer(SetRequestIdLayer::x_request_id(RandomId))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(EndpointLayer::new(endpoints))
        .layer(OutcomeLayer::new(Arc::new((
            telemetry.observer(),
            Ended {
                activity: handles.activity,
                usage: handles.usage,
            },
        ))))
        .layer(telemetry.request_span_layer())
        // Outside of this layer no error occurs.
        .layer(
            RescueLayer::new()
                .with_cutoff(handles.cutoff)
                .with_hook(log_internal_error),
        )
        .layer(PanicGuardLayer::new().with_hook(|text| tracing::error!(text, "a request panicked")))
        // Cheap refusals, before the body is read.
        .layer(RequireEndpointLayer)
        .layer(
            api_keys(live.keys.clone(), limits, &metrics)
                .with_management_hint(
                    "to allow it, set LLAMATOWER_ADMIN_KEYS (`llamatower keygen NAME --admin` generates a key)",
                )
                .with_exempt({
                    let networks = live.networks.clone();
                    move |request| networks.replaces_key(request)
                })
                .with_deferred(|operation| operation == Operation::Pull),
        )
        .layer(RequestFilterLayer::new((
            live.networks.clone(),
            live.delegation.clone(),
        )))
        // Asks Redis once for all of the following rates, and for the tokens.
        .layer(limits_in_redis(handles.redis, live, &user_tokens, &tokens))
        .layer(live.rate.clone())
        // The user's limit is outside of the key's: what a user may not send does not count for the key.
        .layer(live.user_rate.clone())
        .layer(live.key_rate.clone())
        .layer(live.listing_rate.clone())
        .layer(AdmissionLayer::new(limits.in_flight))
        // The body: read once, scanned once.
        .layer(
            BodyLimitLayer::new(handles.body_memory.clone())
                .with_route_limits(RouteLimits {
                    inference: limits.body,
                    ..RouteLimits::default()
                })
                .with_read_timeout(settings.timeouts.body_read),
        )
        // A request that waits for its body keeps no instances of the layers below.
        .layer_fn(Reuse::new)
        .layer(
            LlmRequestLayer::new()
                .with_default_model(settings.backends.default_model.clone())
                .with_decoded_limit(limits.body)
                .with_prefix_blocks(prefix_blocks(&settings.backends.urls))
                .with_memory_budget(handles.body_memory),
        )
        .layer(RequestFilterLayer::new(live.models.clone()))
        .layer(telemetry.inference_span_layer())
        // Sends heartbeats until a response arrives; waiting and retries take place below it.
        .layer(HeartbeatLayer::new(settings.timeouts.heartbeat))
        .layer(adaptive_limit(limits))
        .layer(cache(&settings.cache, &fleet, &metrics))
        .layer(user_tokens)
        .layer(tokens)
        // What the fleet cannot serve; everything below belongs to the fleet.
        .layer(overflow(settings, handles.cloud, live, &fleet, telemetry))
        // Each model of an alias gets its attempts.
        .layer(model_alias(
            &live.models,
            &fleet,
            cloud_models.clone(),
            &metrics,
        ))
        .layer(RequestFilterLayer::new(cloud_models))
        // Each attempt chooses a backend, and keeps its place in the queue.
        .layer(
            RetryLayer::new(RetryBudget::new(
                settings.retry.budget_ratio,
                settings.retry.budget_floor,
            ))
            .with_attempts(settings.retry.attempts)
            // 500 is Ollama's status for a model that it cannot load; another backend may. It is also that
            // for some mistakes of clients, which the boxed attempt has marked.
            .with_statuses([
                StatusCode::INTERNAL_SERVER_ERROR,
                StatusCode::SERVICE_UNAVAILABLE,
            ])
            .with_statuses_only_elsewhere()
            .with_observer(move |event| {
                if event.is_retry() {
                    metrics.retried(event.reason);
                }
            }),
        )
        .service(
            Ollama::new(fleet, settings.backends.management_host()).with_rules(live.models.clone()),
        )
}

/// The layers for one backend.
pub fn attempt<B>(
    settings: &Settings,
    access: &Access,
    backend: &Arc<Backend>,
    breaker: &Breaker,
    telemetry: &AttemptTelemetry,
) -> Attempt<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (timeouts, refusing) = (&settings.timeouts, backend.clone());
    let answering = backend.clone();
    let (probe_timeout, probed) = (settings.backends.probe_timeout, backend.clone());
    let address = backend.address();
    let name = HeaderValue::try_from(&**backend.name()).unwrap_or(HeaderValue::from_static("?"));
    let limits = PoolLimits {
        max_idle: settings.backends.pool_idle.get(),
        idle_timeout: settings.backends.pool_idle_timeout,
    };
    let upstream = Upstream::with_access(address.clone(), timeouts.connect, limits, access);
    if let Some(pool) = upstream.watch_pool() {
        telemetry.observe_pool(backend.name().clone(), pool);
    }
    let pool = upstream.clone();
    backend.after_probe(move || pool.prune());
    let server = backend.openai().cloned();
    let provider = match &server {
        Some(_) => names::OPENAI_COMPATIBLE,
        None => names::OLLAMA,
    };
    let stack = ServiceBuilder::new()
        .layer(attempt_spans(
            UpstreamName {
                name: backend.name().clone(),
                provider,
                base: address.url().into(),
                address: address.host().into(),
                port: address.port(),
            },
            telemetry.tracer.clone(),
        ))
        .layer(UsageLayer::new())
        .layer(
            BreakerLayer::new(breaker.clone())
                // The dispatcher decides when to avoid a backend, because it knows the
                // alternatives.
                .without_refusals()
                .with_failures(counts_for_breaker),
        )
        .map_err(move |error: BoxError| {
            refusing.mark_unreachable(&error);
            error
        })
        .layer_fn(move |inner| DownClock::new(inner, &probed, probe_timeout))
        // Outside of the clocks, which wrap the body.
        .layer(RewriteLayer::new(settings.limits.keep_alive()))
        .map_request(load_clock(timeouts.load))
        .map_request(lookup_clock(settings, backend))
        .layer(
            StreamClocksLayer::new()
                .with_first_byte(timeouts.first_byte)
                .with_idle(timeouts.idle)
                .with_total(timeouts.total)
                .with_quiet(manages_models, timeouts.management)
                .with_limit_names(&USUAL_LIMITS, &MANAGEMENT_LIMITS),
        )
        .map_request(clean_request)
        .layer(SetSensitiveResponseHeadersLayer::new([SET_COOKIE]))
        // An OpenAI-compatible server acts like an Ollama for all layers above.
        .layer_fn(move |client| Translate::new(client, server.clone()))
        .map_request(hold_until_continue)
        .service(upstream);
    ollama::attempt(stack, move |answer| {
        answering.warn_if_compressed(&answer.headers);
        clean_response(answer);
        answer.headers.insert(BACKEND_HEADER, name.clone());
    })
}

/// Gives a request that may have to wait for a load its own first-byte time-out.
fn load_clock<B>(limit: Option<Duration>) -> impl Fn(Request<B>) -> Request<B> + Clone {
    let clock = StreamTimeouts::new()
        .with_first_byte(limit)
        .with_first_byte_name("LLAMATOWER_LOAD_TIMEOUT");
    move |mut request| {
        if request.extensions().get::<MayLoad>().is_some() {
            request.extensions_mut().insert(clock);
        }
        request
    }
}

/// What is kept of requests that have ended. Both parts share one reading of the clock.
struct Ended {
    activity: Arc<Activity>,
    usage: Arc<Usage>,
}

impl Observer for Ended {
    fn finished(&self, outcome: &Outcome) {
        let now = Timestamp::now();
        self.activity.keep(outcome, now);
        self.usage.count(outcome, now);
    }
}

/// Removes a client's request id that is empty, longer than this, or no visible text: it is repeated
/// in logs, traces, errors and to the server.
fn forget_unusable_request_id<B>(mut request: Request<B>) -> Request<B> {
    const MAX_BYTES: usize = 128;
    let is_usable = |id: &HeaderValue| {
        (1..=MAX_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let ids = request.headers().get_all(X_REQUEST_ID);
    if !ids.iter().all(is_usable) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Gives a request that asks what an Ollama knows of a model its own first-byte time-out, unless that
/// of all requests is shorter. Other servers may answer nothing while they work.
fn lookup_clock<B>(
    settings: &Settings,
    backend: &Backend,
) -> impl Fn(Request<B>) -> Request<B> + Clone + use<B> {
    let limit = settings
        .backends
        .probe_timeout
        .saturating_mul(PROBES_OF_LOOKUP);
    let is_shorter = settings
        .timeouts
        .first_byte
        .is_none_or(|usual| limit < usual);
    let clock = StreamTimeouts::new()
        .with_first_byte(limit)
        .with_first_byte_name(LIMIT_OF_LOOKUP);
    let applies = is_shorter && backend.openai().is_none();
    move |mut request| {
        let operation = RouteMatch::of(request.extensions()).and_then(RouteMatch::operation);
        if applies && operation.is_some_and(is_lookup) {
            request.extensions_mut().insert(clock);
        }
        request
    }
}

/// Generates request ids without a system call for each.
#[derive(Clone, Copy, Debug)]
struct RandomId;

impl MakeRequestId for RandomId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).ok().map(RequestId::new)
    }
}

/// Checks keys, counts wrong ones, and slows down those that send them.
pub(crate) fn api_keys(keys: Live<KeySet>, limits: &Limits, metrics: &Arc<Metrics>) -> ApiKeyLayer {
    let metrics = metrics.clone();
    let layer =
        ApiKeyLayer::new(keys).with_failed_key_observer(move |failed| metrics.key_failed(failed));
    match limits.failed_key_rate {
        Some(rate) => layer.with_failed_key_limit(rate.requests(), rate.per()),
        None => layer,
    }
}

/// Limits concurrent requests to keep the time to the first byte below the target, if there is one.
fn adaptive_limit(limits: &Limits) -> AdaptiveLayer {
    // The head of a response without streaming arrives only at its end.
    let streams =
        |request: &Parts| LlmRequest::of(&request.extensions).is_some_and(|request| request.stream);
    match limits.first_byte_target {
        Some(target) => AdaptiveLayer::new(target)
            .with_bounds(NonZeroUsize::MIN, limits.in_flight)
            .with_measured(streams),
        None => AdaptiveLayer::off(),
    }
}

/// Caches embeddings and deterministic responses, separately for each client; off if its size is 0.
fn cache<S: Send + Sync + 'static>(
    settings: &Cache,
    fleet: &Arc<Fleet<S>>,
    metrics: &Metrics,
) -> CacheLayer {
    let fleet = fleet.clone();
    let max_bytes = settings.max_bytes.unwrap_or(0);
    let layer = CacheLayer::new(max_bytes, move |request| fleet.version_of(request))
        .with_tenant(|request| Client::of(request).map(|client| client.to_string().into()))
        .with_time_to_live(settings.time_to_live);
    metrics.observe_cache(layer.clone());
    layer
}

/// How much of a prompt is compared with the prefix caches of the backends: 128 KiB, about 32,000
/// tokens. A single backend gives no choice; a host name may stand for several.
fn prefix_blocks(backends: &[Address]) -> usize {
    const BLOCKS: usize = 64;
    match backends {
        [only] if only.host().parse::<IpAddr>().is_ok() => 0,
        _ => BLOCKS,
    }
}

/// Limits the tokens of each client; does nothing if there is no limit. A request that loads or unloads a
/// model has no prompt, and costs nothing.
fn token_limit(budgets: TokenBudgets, client_of: fn(&Parts) -> Option<Client>) -> ClientTokens {
    TokenLimitLayer::with_store(budgets.used.clone(), [], client_of)
        .with_deadline(budgets.deadline)
        .when_unavailable(budgets.when_unavailable)
        .with_requests(runs_a_model)
        .with_estimate(|request| match LlmRequest::of(&request.extensions) {
            Some(request) if !request.has_no_prompt => expected_text_tokens(request.prompt_bytes),
            _ => 0,
        })
        // A client on this machine, over a Unix socket and without a key; or a key without a user.
        .without_key(WithoutKey::Admit)
        .with_switch(budgets.is_on.clone())
        .with_budgets_of(move |client| Some(budgets.of(client)))
}

/// Asks Redis for the limits of a request before their layers ask; does nothing without Redis. The order is
/// that of the layers.
fn limits_in_redis(
    redis: Option<Redis>,
    live: &LiveSettings,
    user_tokens: &ClientTokens,
    tokens: &ClientTokens,
) -> RedisLimitsLayer {
    let Some(redis) = redis else {
        return RedisLimitsLayer::off();
    };
    let by_length = RedisLimitsLayer::expected_tokens_by_length;
    RedisLimitsLayer::new(redis)
        .with_rate(&live.rate, Rates::in_redis)
        .with_rate(&live.user_rate, Rates::in_redis)
        .with_rate(&live.key_rate, Rates::in_redis)
        .with_rate(&live.listing_rate, Rates::in_redis)
        .with_tokens(user_tokens, Tokens::in_redis, by_length)
        .with_tokens(tokens, Tokens::in_redis, by_length)
}

/// Sends what the fleet cannot serve to the cloud service, if there is one.
fn overflow<B>(
    settings: &Settings,
    cloud: Option<Arc<Cloud>>,
    live: &LiveSettings,
    fleet: &Arc<Fleet<Attempt<B>>>,
    telemetry: &Telemetry,
) -> OverflowLayer<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Some(cloud) = cloud else {
        return OverflowLayer::off();
    };
    let leaf = cloud::leaf(settings, &cloud, telemetry.tracer());
    let (rules, known) = (live.models.clone(), FleetModels(fleet.clone()));
    OverflowLayer::new(cloud, leaf, rules, known, telemetry.metrics().clone())
}

/// Replaces aliases by models of the fleet.
fn model_alias<S>(
    rules: &ModelRules,
    fleet: &Arc<Fleet<S>>,
    cloud_models: OllamaCloudModels,
    metrics: &Arc<Metrics>,
) -> ModelAliasLayer
where
    S: Send + Sync + 'static,
{
    let metrics = metrics.clone();
    ModelAliasLayer::new(rules.aliases.clone())
        .with_known_models(FleetModels(fleet.clone()))
        .with_client(|request| Client::of(request).map(|client| client.to_string().into()))
        .with_allowed(move |request, model| cloud_models.allow(&request.extensions, model))
        .with_header(MODEL_HEADER)
        .with_observer(move |fallback| metrics.fell_back(fallback.alias, fallback.reason))
}

fn manages_models(request: &Parts) -> bool {
    RouteMatch::of(&request.extensions)
        .and_then(RouteMatch::operation)
        .is_some_and(Operation::is_management)
}

/// Whether a failure counts for the circuit breaker. A refused connection does not: it costs
/// nothing, its error is clear, and the backend counts as down until a probe succeeds.
fn counts_for_breaker(failure: &Failure) -> bool {
    failure.side() == Side::Upstream && failure.caused_by::<ConnectFailed>().is_none()
}

/// Logs an internal error, of which clients get no details.
fn log_internal_error(error: &(dyn Error + Send + Sync + 'static)) {
    if Failure::find(error).is_none() {
        tracing::error!(%error, "a request failed with an internal error");
    }
}
