//! How the layers for every request are configured.

use std::error::Error;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderName, HeaderValue, Request, StatusCode};
use http_body::Body;
use jiff::Timestamp;
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::api_key::{ApiKeyLayer, KeySet};
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::{BodyLimitLayer, RouteLimits};
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::live::Live;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::model_alias::ModelAliasLayer;
use llamatower_layers::redis::{Redis, RedisLimitsLayer};
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::store::WithoutKey;
use llamatower_layers::token_limit::TokenLimitLayer;
use llamatower_layers::usage::expected_text_tokens;
use llamatower_layers::{BoxError, Failure, LlmRequest, Observer, Operation, Outcome, RouteMatch};
use tower_http::request_id::{MakeRequestId, RequestId};
use uuid::Uuid;

use super::{Attempt, MODEL_HEADER};
use crate::activity::Activity;
use crate::clients::Client;
use crate::clients::model_rules::ModelRules;
use crate::cloud::{self, Cloud, OllamaCloudModels, OverflowLayer};
use crate::live::{LiveSettings, TokenBudgets, runs_a_model};
use crate::ollama::fleet::{Fleet, FleetModels};
use crate::ollama::upstream::Address;
use crate::settings::{Cache, Limits, Retry, Settings};
use crate::shared::{Rates, Tokens};
use crate::telemetry::{Metrics, Telemetry};
use crate::usage::Usage;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A limit on the tokens of each client.
pub(super) type ClientTokens =
    TokenLimitLayer<Client, fn(&Parts) -> Option<Client>, Tokens<Client>>;

/// Removes a client's request id that is empty, longer than this, or no visible text: it is repeated
/// in logs, traces, errors and to the server.
pub(super) fn forget_unusable_request_id<B>(mut request: Request<B>) -> Request<B> {
    const MAX_BYTES: usize = 128;
    let is_usable = |id: &HeaderValue| {
        (1..=MAX_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    // Few clients send one, and comparing a few names is cheaper than a lookup.
    let mut fields = request.headers().iter();
    if fields.any(|(name, id)| *name == X_REQUEST_ID && !is_usable(id)) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Generates request ids without a system call for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct RandomId;

impl MakeRequestId for RandomId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let mut text = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).ok().map(RequestId::new)
    }
}

/// What is kept of requests that have ended. Both parts share one reading of the clock.
pub(super) struct Ended {
    pub(super) activity: Arc<Activity>,
    pub(super) usage: Arc<Usage>,
    pub(super) cloud: Option<Arc<Cloud>>,
}

impl Observer for Ended {
    fn finished(&self, outcome: &Outcome) {
        let now = Timestamp::now();
        self.activity.keep(outcome, now);
        self.usage.count(outcome, now);
        if let Some(cloud) = &self.cloud {
            cloud.learn(outcome);
        }
    }
}

/// Logs an internal error, of which clients get no details.
pub(super) fn log_internal_error(error: &(dyn Error + Send + Sync + 'static)) {
    if Failure::find(error).is_none() {
        tracing::error!(%error, "a request failed with an internal error");
    }
}

/// Checks keys, counts wrong ones, and slows down those that send them: for clients and for operators.
pub(crate) fn api_keys(keys: Live<KeySet>, limits: &Limits, metrics: &Arc<Metrics>) -> ApiKeyLayer {
    let metrics = metrics.clone();
    let layer =
        ApiKeyLayer::new(keys).with_failed_key_observer(move |failed| metrics.key_failed(failed));
    match limits.failed_key_rate {
        Some(rate) => layer.with_failed_key_limit(rate.requests(), rate.per()),
        None => layer,
    }
}

/// Checks the keys of clients, and which of them may manage models. Whether a pull is allowed depends on its
/// body, and is decided later.
pub(super) fn client_keys(
    live: &LiveSettings,
    limits: &Limits,
    metrics: &Arc<Metrics>,
) -> ApiKeyLayer {
    let networks = live.networks.clone();
    api_keys(live.keys.clone(), limits, metrics)
        .with_management_hint(
            "to allow it, set LLAMATOWER_ADMIN_KEYS (`llamatower keygen NAME --admin` generates a key)",
        )
        .with_exempt(move |request| networks.replaces_key(request))
        .with_deferred(|operation| operation == Operation::Pull)
        .with_refused_inside(has_no_endpoint)
}

/// Whether `RequireEndpointLayer` refuses a request, with or without a key.
fn has_no_endpoint(request: &Extensions) -> bool {
    !matches!(RouteMatch::of(request), Some(RouteMatch::Found { .. }))
}

/// Asks Redis for the limits of a request before their layers ask; does nothing without Redis. The order is
/// that of the layers.
pub(super) fn limits_in_redis(
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
        .with_rate(&live.user_rate, Rates::in_redis)
        .with_rate(&live.key_rate, Rates::in_redis)
        .with_rate(&live.listing_rate, Rates::in_redis)
        .with_rate(&live.rate, Rates::in_redis)
        .with_tokens(user_tokens, Tokens::in_redis, by_length)
        .with_tokens(tokens, Tokens::in_redis, by_length)
}

/// Reads bodies within their limits and one memory budget.
pub(super) fn body_limit(settings: &Settings, memory: MemoryBudget) -> BodyLimitLayer {
    BodyLimitLayer::new(memory)
        .with_route_limits(RouteLimits {
            inference: settings.limits.body,
            ..RouteLimits::default()
        })
        .with_read_timeout(settings.timeouts.body_read)
}

/// Scans bodies. What it decompresses has the same memory budget as the bodies.
pub(super) fn scan(settings: &Settings, memory: MemoryBudget) -> LlmRequestLayer {
    LlmRequestLayer::new()
        .with_max_output_tokens(settings.limits.max_output_tokens)
        .with_default_model(settings.backends.default_model.clone())
        .with_decoded_limit(settings.limits.body)
        .with_prefix_blocks(prefix_blocks(&settings.backends.urls))
        .with_memory_budget(memory)
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

/// Limits concurrent requests to keep the time to the first byte below the target, if there is one.
pub(super) fn adaptive_limit(limits: &Limits) -> AdaptiveLayer {
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
pub(super) fn cache<S: Send + Sync + 'static>(
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

/// Limits the tokens of each client; does nothing if there is no limit. A request that loads or unloads a
/// model has no prompt, and costs nothing.
pub(super) fn token_limit(
    budgets: TokenBudgets,
    client_of: fn(&Parts) -> Option<Client>,
) -> ClientTokens {
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

/// Sends what the fleet cannot serve to the cloud service, if there is one.
pub(super) fn overflow<B>(
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
pub(super) fn model_alias<S>(
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

/// Sends a failed request again, within a budget.
pub(super) fn retry(settings: &Retry, metrics: Arc<Metrics>) -> RetryLayer {
    let budget = RetryBudget::new(settings.budget_ratio, settings.budget_floor);
    RetryLayer::new(budget)
        .with_attempts(settings.attempts)
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
        })
}
