//! The layers that refuse requests.

use std::fmt::Debug;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response};
use llamatower_layers::BoxError;
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::limit::RateLimitLayer as TowerRateLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::{Service, ServiceBuilder};
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::{GlobalKeyExtractor, KeyExtractor};
use tower_governor::{GovernorError, GovernorLayer};
use tower_layer::Layer;
use tower_resilience_adaptive::{AdaptiveLimiterLayer, Aimd};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_circuitbreaker::CircuitBreakerLayer;
use tower_resilience_ratelimiter::RateLimiterLayer;

use crate::exchange::{Backend, ClientBody, Lines, PeerAddr, is_served, request};
use crate::side::{Group, OneForAll, Peer, Side, occupy};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than a run.
const HOUR: Duration = Duration::from_secs(3600);

/// More requests than a run sends in a second.
const MANY: u32 = 1_000_000;

/// The first request uses this limit up.
const ONE: u32 = 1;

pub(super) fn rate_limit_global(backend: &Backend) -> Group {
    let ours = |quota| around(backend, RateLimitLayer::global(quota));
    let tower = |requests: u32| {
        let layers = ServiceBuilder::new()
            .layer(LoadShedLayer::new())
            .layer(TowerRateLimitLayer::new(requests.into(), HOUR));
        OneForAll::new(layers.service(backend.clone()))
    };
    let resilience = |requests: u32| {
        let layer = RateLimiterLayer::builder()
            .limit_for_period(requests as usize)
            .refresh_period(if requests == ONE { HOUR } else { SECOND })
            .timeout_duration(Duration::ZERO)
            .build()
            .expect("valid settings");
        around(backend, layer)
    };
    Group {
        layer: "RateLimit, global",
        ours: Side::new(ours(many()), backend.clone()).refusing(spent(ours(one()))),
        peers: vec![
            governor(backend, GlobalKeyExtractor, "writes `x-ratelimit` fields"),
            Peer {
                name: "tower RateLimit + LoadShed",
                side: Side::new(tower(u32::MAX), backend.clone()).refusing(spent(tower(ONE))),
                remark: "no header; is not `Clone`: the `Buffer` that a server needs is not counted",
            },
            Peer {
                name: "tower-resilience RateLimiter",
                side: Side::new(resilience(MANY), backend.clone()).refusing(spent(resilience(ONE))),
                remark: "no header",
            },
        ],
    }
}

pub(super) fn rate_limit_per_key(backend: &Backend) -> Group {
    let address_of =
        |request: &Parts| -> Option<IpAddr> { request.extensions.get().map(PeerAddr::ip) };
    let ours = |quota| around(backend, RateLimitLayer::per_key(quota, address_of));
    Group {
        layer: "RateLimit, per key",
        ours: Side::new(ours(many()), backend.clone()).refusing(spent(ours(one()))),
        peers: vec![governor(
            backend,
            PeerAddress,
            "its map of keys has no bound of its own",
        )],
    }
}

pub(super) fn admission(backend: &Backend) -> Group {
    let ours = |most| around(backend, AdmissionLayer::new(most));
    let tower = |most| {
        let layers = ServiceBuilder::new()
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(most));
        layers.service(backend.clone())
    };
    let resilience = |most| {
        let layer = BulkheadLayer::builder()
            .max_concurrent_calls(most)
            .backpressure()
            .build()
            .expect("valid settings");
        let layers = ServiceBuilder::new()
            .layer(LoadShedLayer::new())
            .layer(layer);
        layers.service(backend.clone())
    };
    Group {
        layer: "Admission",
        ours: Side::new(ours(NonZeroUsize::MAX), backend.clone())
            .refusing(full(ours(NonZeroUsize::MIN))),
        peers: vec![
            Peer {
                name: "tower GlobalConcurrencyLimit + LoadShed",
                side: Side::new(tower(MANY as usize), backend.clone()).refusing(full(tower(1))),
                remark: "frees the place at the head",
            },
            Peer {
                name: "tower-resilience Bulkhead + LoadShed",
                side: Side::new(resilience(MANY as usize), backend.clone())
                    .refusing(full(resilience(1))),
                remark: "frees the place at the head",
            },
        ],
    }
}

pub(super) fn adaptive(backend: &Backend) -> Group {
    let ours = |most| {
        let layer = AdaptiveLayer::new(SECOND).with_bounds(NonZeroUsize::MIN, most);
        around(backend, layer)
    };
    let resilience = |most| {
        let algorithm = Aimd::builder()
            .initial_limit(most)
            .max_limit(most)
            .latency_threshold(SECOND)
            .build()
            .expect("valid settings");
        let layers = ServiceBuilder::new()
            .layer(LoadShedLayer::new())
            .layer(AdaptiveLimiterLayer::new(algorithm));
        layers.service(backend.clone())
    };
    Group {
        layer: "Adaptive",
        ours: Side::new(ours(NonZeroUsize::MAX), backend.clone())
            .refusing(full(ours(NonZeroUsize::MIN))),
        peers: vec![Peer {
            name: "tower-resilience AdaptiveLimiter + LoadShed",
            side: Side::new(resilience(MANY as usize), backend.clone())
                .refusing(full(resilience(1))),
            remark: "measures the head and frees the place there",
        }],
    }
}

pub(super) fn breaker(backend: &Backend) -> Group {
    let ours = |breaker| around(backend, BreakerLayer::new(breaker));
    let first_failure = BreakerPolicy::default().with_consecutive_failures(Some(NonZeroU32::MIN));
    let open = Breaker::new(first_failure.with_open_for(HOUR, HOUR));
    open.acquire().expect("it is closed").fail();
    let is_failure = |answer: &Result<Response<_>, BoxError>| {
        let failed = |answer: &Response<_>| [502, 504].contains(&answer.status().as_u16());
        answer.as_ref().map_or(true, failed)
    };
    let resilience = || {
        let builder = CircuitBreakerLayer::builder().failure_classifier(is_failure);
        builder.wait_duration_in_open(HOUR)
    };
    let closed = resilience().build().expect("valid settings");
    let (refusing, handle) = resilience().build_with_handle().expect("valid settings");
    handle
        .force_open()
        .now_or_never()
        .expect("nothing is locked");
    Group {
        layer: "Breaker",
        ours: Side::new(
            ours(Breaker::new(BreakerPolicy::default())),
            backend.clone(),
        )
        .refusing(ours(open)),
        peers: vec![Peer {
            name: "tower-resilience CircuitBreaker",
            side: Side::new(around(backend, closed), backend.clone())
                .refusing(around(backend, refusing)),
            remark: "judges by the head",
        }],
    }
}

fn around<L: Layer<Backend>>(backend: &Backend, layer: L) -> L::Service {
    ServiceBuilder::new().layer(layer).service(backend.clone())
}

/// The service, whose limit is now used up.
fn spent<S, R>(service: S) -> S
where
    S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone,
    R: http_body::Body<Data = Bytes, Error: Debug>,
{
    assert!(is_served(service.clone(), request()), "the first passes");
    service
}

/// The service, whose only place is now taken.
fn full<S>(service: S) -> S
where
    S: Service<Request<ClientBody>, Error: Debug> + Clone,
{
    occupy(&service);
    service
}

fn many() -> Quota {
    let burst = NonZeroU32::new(MANY).expect("not 0");
    Quota::new(NonZeroU32::MAX, SECOND)
        .and_then(|quota| quota.with_burst(burst))
        .expect("a valid quota")
}

fn one() -> Quota {
    Quota::new(NonZeroU32::MIN, HOUR).expect("a valid quota")
}

impl PeerAddr {
    fn ip(&self) -> IpAddr {
        self.0.ip()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerAddress;

impl KeyExtractor for PeerAddress {
    type Key = IpAddr;

    fn extract<T>(&self, request: &Request<T>) -> Result<IpAddr, GovernorError> {
        let peer = request.extensions().get().map(PeerAddr::ip);
        peer.ok_or(GovernorError::UnableToExtractKey)
    }
}

/// tower_governor has its header, as ours. Its body is axum's, so its backend's is too.
fn governor<K>(backend: &Backend, key: K, remark: &'static str) -> Peer
where
    K: KeyExtractor + Eq + 'static,
{
    let inner = ServiceBuilder::new()
        .map_response(|answer: Response<Lines>| answer.map(Body::new))
        .service(backend.clone());
    let service = |period, burst| {
        let config = GovernorConfigBuilder::default()
            .period(period)
            .burst_size(burst)
            .key_extractor(key.clone())
            .use_headers()
            .finish()
            .expect("valid settings");
        let layer = GovernorLayer::new(config);
        ServiceBuilder::new().layer(layer).service(inner.clone())
    };
    Peer {
        name: "tower_governor, with its headers",
        side: Side::new(service(Duration::from_nanos(1), MANY), inner.clone())
            .refusing(spent(service(HOUR, ONE))),
        remark,
    }
}
