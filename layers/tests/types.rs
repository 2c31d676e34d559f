//! What the public types of the layers promise: the auto traits of bodies, services and futures, the
//! accessors of services, and bodies that other layers can make by `Default`.

use std::fmt::Debug;
use std::future::{Ready, ready};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use llamatower_layers::adaptive::{AdaptiveBody, AdaptiveLayer, AdaptiveService};
use llamatower_layers::admission::{AdmissionLayer, AdmissionService, Permit};
use llamatower_layers::api_key::{ApiKeyLayer, ApiKeyService, KeySet};
use llamatower_layers::body::{Guarded, MemoryBudget, ReplayBody};
use llamatower_layers::body_limit::{BodyLimitLayer, BodyLimitService};
use llamatower_layers::breaker::{
    Breaker, BreakerBody, BreakerLayer, BreakerPolicy, BreakerService,
};
use llamatower_layers::cache::{CacheBody, CacheLayer, CacheService};
use llamatower_layers::clocks::{
    StreamClocksBody, StreamClocksLayer, StreamClocksRequestBody, StreamClocksService,
};
use llamatower_layers::endpoint::{
    EndpointLayer, EndpointService, RequireEndpointLayer, RequireEndpointService,
};
use llamatower_layers::heartbeat::{HeartbeatBody, HeartbeatLayer, HeartbeatService};
use llamatower_layers::llm_request::{LlmRequestLayer, LlmRequestService};
use llamatower_layers::model_alias::{
    Alias, Aliases, ModelAliasBody, ModelAliasLayer, ModelAliasService,
};
use llamatower_layers::outcome::{OutcomeBody, OutcomeService};
use llamatower_layers::panic_guard::{PanicGuardBody, PanicGuardLayer, PanicGuardService};
use llamatower_layers::queue::{QueueLayer, QueueService};
use llamatower_layers::rate_limit::{Quota, RateLimitLayer, RateLimitService};
use llamatower_layers::rescue::{RescueBody, RescueLayer, RescueService};
use llamatower_layers::retry::{RetryBudget, RetryLayer, RetryService};
use llamatower_layers::route::{Choice, ChoiceOf, Choose, RouteService};
use llamatower_layers::token_limit::{Budget, TokenLimitLayer, TokenLimitService, Window};
use llamatower_layers::usage::{UsageBody, UsageLayer, UsageService};
use llamatower_layers::{BoxError, EndpointTable, Observer, Outcome, OutcomeLayer};
use tower::{Layer, Service, ServiceExt};

/// The innermost service, for any request body.
#[derive(Clone, Debug, PartialEq)]
struct Inner(u8);

type Answer = Result<Response<Full<Bytes>>, BoxError>;

impl<B> Service<Request<B>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::from("answer"))))
    }
}

#[derive(Clone, Debug)]
struct OnlyOne(Inner);

impl Choose for OnlyOne {
    type Service = Inner;
    type Slot = ();
    type Wait = ();

    fn poll_choose(&self, (): &mut (), _: &mut Parts, _: &mut Context<'_>) -> Poll<ChoiceOf<Self>> {
        let service = self.0.clone();
        Poll::Ready(Ok(Choice { service, slot: () }))
    }
}

struct NoObserver;

impl Observer for NoObserver {
    fn finished(&self, _: &Outcome) {}
}

/// Passes a request through a service, and demands the traits of its parts.
async fn passes<S, B, R>(service: S, request: B)
where
    S: Service<Request<B>, Response = Response<R>, Error: Into<BoxError>, Future: Send + Debug>,
    S: Clone + Debug + Send + Sync + Unpin + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Debug + Send + Sync + Unpin + 'static,
{
    let answer = service.oneshot(Request::new(request)).await;
    let answer = answer.map_err(Into::into).expect("an answer");
    let body = answer.into_body().collect().await;
    let body = body.map_err(Into::into).expect("a whole body");
    assert_eq!(body.to_bytes(), "answer");
}

fn layer_traits<L: Clone + Debug + Send + Sync + Unpin + 'static>(_: &L) {}

/// Checks a layer and its service: `service!(Service, layer, request body)`.
macro_rules! check {
    ($service:ident, $layer:expr, $body:expr) => {{
        let layer = $layer;
        layer_traits(&layer);
        let mut service = $service::new(Inner(1), &layer);
        assert_eq!(service.get_ref(), &Inner(1));
        *service.get_mut() = Inner(2);
        assert_eq!(service.clone().into_inner(), Inner(2));
        assert!(!format!("{service:?}").is_empty());
        passes(layer.layer(Inner(3)), $body).await;
    }};
}

fn no_key(_: &Parts) -> Option<String> {
    None
}

#[tokio::test]
async fn every_layer_and_service_has_the_same_traits_and_accessors() {
    let full = || Full::<Bytes>::from("{}");
    let replay = || ReplayBody::<Full<Bytes>>::from(Bytes::from("{}"));
    let second = Duration::from_secs(1);
    let quota = Quota::per_minute(NonZeroU32::MAX);
    let tokens = Budget::new(NonZeroU64::MAX, Window::Day);
    let breaker = Breaker::new(BreakerPolicy::default());
    let memory = MemoryBudget::new(1 << 20);
    let table = EndpointTable::openai();

    check!(EndpointService, EndpointLayer::new(table), full());
    check!(
        OutcomeService,
        OutcomeLayer::new(Arc::new(NoObserver)),
        full()
    );
    check!(RescueService, RescueLayer::new(), full());
    check!(PanicGuardService, PanicGuardLayer::new(), full());
    check!(ApiKeyService, ApiKeyLayer::new(KeySet::default()), full());
    check!(RateLimitService, RateLimitLayer::global(quota), full());
    check!(
        RateLimitService,
        RateLimitLayer::per_key(quota, no_key),
        full()
    );
    check!(
        AdmissionService,
        AdmissionLayer::new(NonZeroUsize::MIN),
        full()
    );
    check!(AdaptiveService, AdaptiveLayer::new(second), full());
    check!(BodyLimitService, BodyLimitLayer::new(memory), full());
    check!(LlmRequestService, LlmRequestLayer::new(), replay());
    check!(HeartbeatService, HeartbeatLayer::new(second), full());
    check!(
        CacheService,
        CacheLayer::new(1 << 20, |_| Some("1".into())),
        replay()
    );
    check!(
        TokenLimitService,
        TokenLimitLayer::new([tokens], no_key),
        full()
    );
    let alias = Alias::chain("gpt", ["tiny"]).expect("an alias");
    let aliases = Aliases::new([alias]).expect("one alias");
    check!(ModelAliasService, ModelAliasLayer::new(aliases), replay());
    check!(
        RetryService,
        RetryLayer::new(RetryBudget::default()),
        replay()
    );
    check!(QueueService, QueueLayer::new(NonZeroUsize::MIN), full());
    check!(UsageService, UsageLayer::new(), full());
    check!(BreakerService, BreakerLayer::new(breaker), full());
    check!(StreamClocksService, StreamClocksLayer::new(), full());
}

#[tokio::test]
async fn the_route_service_gives_access_to_its_policy() {
    let mut service = RouteService::new(OnlyOne(Inner(1)));
    assert_eq!(service.get_ref().0, Inner(1));
    service.get_mut().0 = Inner(2);
    assert_eq!(service.clone().into_inner().0, Inner(2));
    passes(service, Full::<Bytes>::default()).await;
}

#[tokio::test]
async fn a_service_that_requires_an_endpoint_has_the_same_traits_and_accessors() {
    let mut service = RequireEndpointService::new(Inner(1), &RequireEndpointLayer);
    layer_traits(&RequireEndpointLayer);
    *service.get_mut() = Inner(2);
    assert_eq!(service.get_ref(), &Inner(2));
    assert_eq!(service.clone().into_inner(), Inner(2));
    let refused = service
        .oneshot(Request::new(Full::<Bytes>::default()))
        .await;
    assert!(refused.is_err(), "its path was not looked up");
}

type Late = Result<Response<Incoming>, BoxError>;

/// A default body has no frames, and says so at once.
fn default_is_empty<B: Body + Default + Debug + Send + Sync + Unpin + 'static>() {
    let body = B::default();
    assert!(body.is_end_stream(), "{body:?}");
    assert_eq!(body.size_hint().exact(), Some(0), "{body:?}");
}

#[test]
fn a_default_body_is_empty() {
    // hyper's body has no default; these bodies have one nevertheless.
    default_is_empty::<RescueBody<Incoming>>();
    default_is_empty::<PanicGuardBody<Incoming>>();
    default_is_empty::<HeartbeatBody<Ready<Late>, Incoming>>();
    default_is_empty::<CacheBody<Incoming>>();
    default_is_empty::<ModelAliasBody<Incoming>>();
    default_is_empty::<StreamClocksBody<Incoming>>();
    // These need the default of the inner body.
    default_is_empty::<OutcomeBody<Full<Bytes>>>();
    default_is_empty::<Guarded<Full<Bytes>, Permit>>();
    default_is_empty::<AdaptiveBody<Full<Bytes>>>();
    default_is_empty::<UsageBody<Full<Bytes>>>();
    default_is_empty::<BreakerBody<Full<Bytes>>>();
    default_is_empty::<StreamClocksRequestBody<Full<Bytes>>>();
    default_is_empty::<ReplayBody<Full<Bytes>>>();
}
