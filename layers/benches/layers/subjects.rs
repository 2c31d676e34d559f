//! The layers, each with the minimum that it needs around it. To add a layer, add a function here,
//! its name in [`all`], and its position in [`stack`].

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use http::request::Parts;
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::api_key::{ApiKeyLayer, KeySet, Role};
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::BodyLimitLayer;
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::heartbeat::HeartbeatLayer;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::model_alias::{Alias, Aliases, ModelAliasLayer};
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::queue::QueueLayer;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::route::{Choice, ChoiceOf, Choose, RouteService};
use llamatower_layers::token_limit::{Budget, TokenLimitLayer, Window};
use llamatower_layers::usage::UsageLayer;
use llamatower_layers::{EndpointTable, Observer, Outcome, OutcomeLayer};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_layer::{Identity, Layer, Stack, layer_fn};

use super::exchange::{Backend, ClientBody, KEY_DIGEST, PeerAddr, request};
use super::subject::Subject;

/// Each layer alone, then all of them in the order of the gateway.
pub(crate) fn all() -> Vec<Subject> {
    vec![
        endpoint(),
        outcome(),
        rescue(),
        panic_guard(),
        api_key(),
        rate_limit_global(),
        rate_limit_per_key(),
        admission(),
        adaptive(),
        body_limit(),
        llm_request(),
        llm_request_prefix(),
        heartbeat(),
        cache(),
        token_limit(),
        model_alias(),
        model_alias_used(),
        retry(),
        queue(),
        route(),
        usage(),
        breaker(),
        clocks(),
        stack(),
    ]
}

pub(crate) fn endpoint() -> Subject {
    Subject::new("endpoint", endpoint_layer())
}

pub(crate) fn outcome() -> Subject {
    Subject::within("outcome", endpoint_layer(), outcome_layer())
}

pub(crate) fn rescue() -> Subject {
    Subject::within("rescue", endpoint_layer(), rescue_layer())
}

pub(crate) fn panic_guard() -> Subject {
    Subject::new("panic_guard", PanicGuardLayer::new())
}

pub(crate) fn api_key() -> Subject {
    Subject::within("api_key", endpoint_layer(), api_key_layer())
}

pub(crate) fn rate_limit_global() -> Subject {
    Subject::new("rate_limit, global", RateLimitLayer::global(quota()))
}

pub(crate) fn rate_limit_per_key() -> Subject {
    let layer = RateLimitLayer::per_key(quota(), address_of);
    Subject::new("rate_limit, per key", layer)
}

pub(crate) fn admission() -> Subject {
    Subject::new("admission", AdmissionLayer::new(NonZeroUsize::MAX))
}

pub(crate) fn adaptive() -> Subject {
    Subject::new("adaptive", adaptive_layer())
}

pub(crate) fn body_limit() -> Subject {
    Subject::within("body_limit", endpoint_layer(), body_limit_layer())
}

pub(crate) fn llm_request() -> Subject {
    Subject::within("llm_request", buffering(), LlmRequestLayer::new())
}

/// With the prefix of the prompt, which a short prompt does not have.
pub(crate) fn llm_request_prefix() -> Subject {
    let layer = LlmRequestLayer::new().with_prefix_blocks(64);
    Subject::within("llm_request, prefix", buffering(), layer)
}

/// Heartbeats are off by default.
pub(crate) fn heartbeat() -> Subject {
    Subject::new("heartbeat, off", HeartbeatLayer::new(None))
}

/// A request whose answer cannot be cached; the layer has to read it to find that.
pub(crate) fn cache() -> Subject {
    Subject::within("cache, unfit request", buffering(), cache_layer())
}

pub(crate) fn token_limit() -> Subject {
    Subject::within("token_limit", UsageLayer::new(), token_limit_layer())
}

/// A request for a model that is no alias, as most are.
pub(crate) fn model_alias() -> Subject {
    Subject::within(
        "model_alias, no alias",
        scanning(),
        model_alias_layer("gpt"),
    )
}

/// A request for an alias: its body and each line of the answer are rewritten.
pub(crate) fn model_alias_used() -> Subject {
    Subject::within(
        "model_alias, an alias",
        scanning(),
        model_alias_layer("llama3.2"),
    )
}

pub(crate) fn queue() -> Subject {
    Subject::new("queue, free slot", QueueLayer::new(NonZeroUsize::MAX))
}

pub(crate) fn usage() -> Subject {
    Subject::within("usage", endpoint_layer(), UsageLayer::new())
}

pub(crate) fn breaker() -> Subject {
    Subject::new("breaker", breaker_layer())
}

pub(crate) fn retry() -> Subject {
    Subject::within("retry", buffering(), retry_layer())
}

pub(crate) fn route() -> Subject {
    Subject::new("route", route_layer())
}

pub(crate) fn clocks() -> Subject {
    Subject::within("clocks", buffering(), StreamClocksLayer::new())
}

pub(crate) fn stack() -> Subject {
    stack_around("all of them", request(), Backend::default())
}

/// All layers, for this request and this backend.
pub(crate) fn stack_around(
    name: &'static str,
    request: Request<ClientBody>,
    backend: Backend,
) -> Subject {
    let layers = ServiceBuilder::new()
        .layer(endpoint_layer())
        .layer(outcome_layer())
        .layer(rescue_layer())
        .layer(PanicGuardLayer::new())
        .layer(api_key_layer())
        .layer(RateLimitLayer::global(quota()))
        .layer(RateLimitLayer::per_key(quota(), address_of))
        .layer(AdmissionLayer::new(NonZeroUsize::MAX))
        .layer(adaptive_layer())
        .layer(body_limit_layer())
        .layer(LlmRequestLayer::new())
        .layer(HeartbeatLayer::new(None))
        .layer(cache_layer())
        .layer(token_limit_layer())
        .layer(model_alias_layer("gpt"))
        .layer(retry_layer())
        .layer(QueueLayer::new(NonZeroUsize::MAX))
        .layer(route_layer())
        .layer(UsageLayer::new())
        .layer(breaker_layer())
        .layer(StreamClocksLayer::new());
    Subject::exchanging(name, request, backend, Identity::new(), layers)
}

fn endpoint_layer() -> EndpointLayer {
    EndpointLayer::new(EndpointTable::ollama())
}

fn outcome_layer() -> OutcomeLayer {
    struct NoObserver;
    impl Observer for NoObserver {
        fn finished(&self, _: &Outcome) {}
    }
    OutcomeLayer::new(Arc::new(NoObserver))
}

fn rescue_layer() -> RescueLayer {
    RescueLayer::new().with_cutoff(CancellationToken::new())
}

fn api_key_layer() -> ApiKeyLayer {
    let line = format!("ada=sha256:{KEY_DIGEST}");
    let keys = KeySet::from_lines([line.as_str()], Role::User).expect("a valid line");
    ApiKeyLayer::new(keys)
}

/// A quota that refuses nothing.
fn quota() -> Quota {
    let million = NonZeroU32::MIN.saturating_add(999_999);
    Quota::new(NonZeroU32::MAX, std::time::Duration::from_secs(1))
        .and_then(|quota| quota.with_burst(million))
        .expect("a valid quota")
}

fn address_of(request: &Parts) -> Option<IpAddr> {
    request.extensions.get().map(|PeerAddr(peer)| peer.ip())
}

fn adaptive_layer() -> AdaptiveLayer {
    AdaptiveLayer::new(Duration::from_secs(1))
}

fn cache_layer() -> CacheLayer {
    CacheLayer::new(1 << 20, |_| Some(Arc::from("v1")))
}

fn token_limit_layer() -> TokenLimitLayer<IpAddr, fn(&Parts) -> Option<IpAddr>> {
    let budget = Budget::new(NonZeroU64::MAX, Window::Day);
    TokenLimitLayer::new([budget], address_of)
}

fn breaker_layer() -> BreakerLayer {
    BreakerLayer::new(Breaker::new(BreakerPolicy::default()))
}

fn body_limit_layer() -> BodyLimitLayer {
    BodyLimitLayer::new(MemoryBudget::new(1 << 30))
}

/// Outer layers for layers that need a request's route and a replayable body.
fn buffering() -> Stack<BodyLimitLayer, EndpointLayer> {
    Stack::new(body_limit_layer(), endpoint_layer())
}

/// The same for layers that need the model of a request.
fn scanning() -> Stack<LlmRequestLayer, Stack<BodyLimitLayer, EndpointLayer>> {
    Stack::new(LlmRequestLayer::new(), buffering())
}

fn model_alias_layer(name: &str) -> ModelAliasLayer {
    let alias = Alias::chain(name, ["another"]).expect("valid names");
    ModelAliasLayer::new(Aliases::new([alias]).expect("one alias"))
}

fn retry_layer() -> RetryLayer {
    RetryLayer::new(RetryBudget::default())
}

fn route_layer<S: Clone + Send + Sync + 'static>()
-> impl Layer<S, Service = RouteService<OnlyOne<S>>> {
    layer_fn(|service| RouteService::new(OnlyOne(service)))
}

#[derive(Clone)]
struct OnlyOne<S>(S);

impl<S: Clone + Send + Sync> Choose for OnlyOne<S> {
    type Service = S;
    type Slot = ();
    type Wait = ();

    fn poll_choose(&self, (): &mut (), _: &mut Parts, _: &mut Context<'_>) -> Poll<ChoiceOf<Self>> {
        let service = self.0.clone();
        Poll::Ready(Ok(Choice { service, slot: () }))
    }
}
