//! The stack: the layers and their order. Read it from top to bottom.
//!
//! Every request passes through [`service`]. [`attempt`] belongs to one backend, and each attempt
//! passes through it. How a layer is configured is in `stack/request.rs` and `stack/attempt.rs`.

mod attempt;
mod request;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderValue, Request, Response};
use http_body::Body;
use llamatower_layers::BoxError;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::body::{MemoryBudget, ReplayBody};
use llamatower_layers::breaker::{Breaker, BreakerLayer};
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable, RequireEndpointLayer};
use llamatower_layers::heartbeat::HeartbeatLayer;
use llamatower_layers::outcome::OutcomeLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::redis::Redis;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::usage::UsageLayer;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder};
use tower_http::request_id::{PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::sensitive_headers::{
    SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer,
};

use self::attempt::{clocks, connections, counts_for_breaker, prepare, upstream_name};
pub(crate) use self::request::api_keys;
use self::request::{
    Ended, RandomId, adaptive_limit, body_limit, cache, client_keys, forget_unusable_request_id,
    limits_in_redis, log_internal_error, model_alias, overflow, retry, scan, token_limit,
};
use crate::activity::Activity;
use crate::clients::Client;
use crate::clients::request_filter::RequestFilterLayer;
use crate::cloud::{Cloud, OllamaCloudModels};
use crate::live::LiveSettings;
use crate::ollama::down_clock::DownClock;
use crate::ollama::fleet::{Backend, Fleet};
use crate::ollama::hold::hold_until_continue;
use crate::ollama::hygiene::clean_response;
use crate::ollama::rewrite::RewriteLayer;
use crate::ollama::servers_lost::CountLost;
use crate::ollama::tell_limit::TellLimit;
use crate::ollama::upstream::Access;
use crate::ollama::{self, Ollama};
use crate::openai::Translate;
use crate::reuse::Reuse;
use crate::settings::Settings;
use crate::telemetry::{AttemptTelemetry, Telemetry, attempt_spans};
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
                cloud: handles.cloud.clone(),
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
        .layer(client_keys(live, limits, &metrics))
        // Inside of the keys, so that the log line of such a request names its client.
        .layer(RequireEndpointLayer)
        .layer(RequestFilterLayer::new((
            live.networks.clone(),
            live.delegation.clone(),
        )))
        // Asks Redis once for all of the following rates, and for the tokens.
        .layer(limits_in_redis(handles.redis, live, &user_tokens, &tokens))
        // What the limit of a user refuses does not count for the key, and what that of a key refuses does not
        // count for all clients.
        .layer(live.user_rate.clone())
        .layer(live.key_rate.clone())
        .layer(live.listing_rate.clone())
        .layer(live.rate.clone())
        .layer(AdmissionLayer::new(limits.in_flight))
        // The body: read once, scanned once.
        .layer(body_limit(settings, handles.body_memory.clone()))
        // A request that waits for its body keeps no instances of the layers below.
        .layer_fn(Reuse::new)
        .layer(scan(settings, handles.body_memory))
        .layer_fn(TellLimit::new)
        .layer(RequestFilterLayer::new(live.models.clone()))
        .layer(telemetry.inference_span_layer())
        // Sends heartbeats until a response arrives; waiting and retries take place below it.
        .layer(HeartbeatLayer::new(settings.timeouts.heartbeat))
        .layer(cache(&settings.cache, &fleet, &metrics))
        // What waits for its client takes part in nothing below, as in the queue for slots; but with Redis its tokens
        // may be reserved already.
        .layer(live.concurrency.clone())
        // What the cache answers says nothing about the servers, and needs none of them.
        .layer(adaptive_limit(limits))
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
        .layer(retry(&settings.retry, metrics))
        // A request that may end servers is sent to two of them at most.
        .layer_fn(CountLost::new)
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
    let timeouts = &settings.timeouts;
    let (probed, answering) = (backend.clone(), backend.clone());
    let probe_timeout = settings.backends.probe_timeout;
    let name = HeaderValue::try_from(&**backend.name()).unwrap_or(HeaderValue::from_static("?"));
    let server = backend.openai().cloned();
    let stack = ServiceBuilder::new()
        .layer(attempt_spans(
            upstream_name(backend),
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
        .layer_fn(move |inner| DownClock::new(inner, &probed, probe_timeout))
        // Outside of the clocks, which wrap the body.
        .layer(
            RewriteLayer::new(settings.limits.keep_alive()).for_openai(backend.openai().is_some()),
        )
        .map_request(prepare(settings, backend))
        .layer(clocks(timeouts))
        .layer(SetSensitiveResponseHeadersLayer::new([SET_COOKIE]))
        // An OpenAI-compatible server acts like an Ollama for all layers above.
        .layer_fn(move |client| Translate::new(client, server.clone()))
        .map_request(hold_until_continue)
        .service(connections(settings, access, backend, telemetry));
    ollama::attempt(stack, move |answer| {
        answering.warn_if_compressed(&answer.headers);
        clean_response(answer);
        answer.headers.insert(BACKEND_HEADER, name.clone());
    })
}
