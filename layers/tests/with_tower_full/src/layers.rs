//! Each layer as the tests use it. None of them refuses the one request of a test.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

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
use llamatower_layers::model_alias::{Alias, Aliases, ModelAliasLayer};
use llamatower_layers::queue::QueueLayer;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::route::{Choice, ChoiceOf, Choose, RouteService};
use llamatower_layers::token_limit::{Budget, Window};
use llamatower_layers::{EndpointTable, Observer, Outcome, OutcomeLayer};
use tower::Layer;
use tower::layer::layer_fn;

use crate::support::KEY;

pub(crate) fn endpoint() -> EndpointLayer {
    EndpointLayer::new(EndpointTable::ollama())
}

pub(crate) fn outcome() -> OutcomeLayer {
    struct NoObserver;
    impl Observer for NoObserver {
        fn finished(&self, _: &Outcome) {}
    }
    OutcomeLayer::new(Arc::new(NoObserver))
}

pub(crate) fn api_key() -> ApiKeyLayer {
    let keys = KeySet::from_lines([KEY.1.as_str()], Role::User);
    ApiKeyLayer::new(keys.expect("a valid line"))
}

pub(crate) fn quota() -> Quota {
    Quota::per_minute(NonZeroU32::new(1000).expect("not zero"))
}

pub(crate) fn admission() -> AdmissionLayer {
    AdmissionLayer::new(NonZeroUsize::new(64).expect("not zero"))
}

pub(crate) fn adaptive() -> AdaptiveLayer {
    AdaptiveLayer::new(Duration::from_secs(10))
}

pub(crate) fn body_limit() -> BodyLimitLayer {
    BodyLimitLayer::new(MemoryBudget::new(1 << 20))
}

pub(crate) fn heartbeat() -> HeartbeatLayer {
    HeartbeatLayer::new(Duration::from_secs(10))
}

pub(crate) fn cache() -> CacheLayer {
    CacheLayer::new(1 << 20, |_| Some(Arc::from("v1")))
}

pub(crate) fn budget() -> Budget {
    Budget::new(NonZeroU64::MAX, Window::Day)
}

/// All requests have the same key.
pub(crate) fn key_of(_: &Parts) -> Option<u8> {
    Some(1)
}

pub(crate) fn model_alias() -> ModelAliasLayer {
    let alias = Alias::chain("gpt-4o-mini", ["tiny"]).expect("valid names");
    ModelAliasLayer::new(Aliases::new([alias]).expect("one alias"))
}

pub(crate) fn retry() -> RetryLayer {
    RetryLayer::new(RetryBudget::default())
}

pub(crate) fn queue() -> QueueLayer {
    QueueLayer::new(NonZeroUsize::new(64).expect("not zero"))
}

pub(crate) fn breaker() -> BreakerLayer {
    BreakerLayer::new(Breaker::new(BreakerPolicy::default()))
}

pub(crate) fn clocks() -> StreamClocksLayer {
    StreamClocksLayer::new()
        .with_first_byte(Duration::from_secs(10))
        .with_idle(Duration::from_secs(10))
        .with_total(Duration::from_secs(10))
}

/// `Route` is a service, since it has many inner services.
pub(crate) fn route<S>() -> impl Layer<S, Service = RouteService<OnlyOne<S>>> + Clone
where
    S: Clone + Send + Sync + 'static,
{
    layer_fn(|service| RouteService::new(OnlyOne(service)))
}

#[derive(Clone)]
pub(crate) struct OnlyOne<S>(S);

impl<S: Clone + Send + Sync> Choose for OnlyOne<S> {
    type Service = S;
    type Slot = ();
    type Wait = ();

    fn poll_choose(&self, (): &mut (), _: &mut Parts, _: &mut Context<'_>) -> Poll<ChoiceOf<Self>> {
        let service = self.0.clone();
        Poll::Ready(Ok(Choice { service, slot: () }))
    }
}
