//! Layers of tower-http around the whole stack on plain hyper: they make bodies by `Default`, which
//! hyper's own body does not have.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::pending;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use llamatower_layers::adaptive::AdaptiveLayer;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::BodyLimitLayer;
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::{EndpointLayer, RequireEndpointLayer};
use llamatower_layers::heartbeat::HeartbeatLayer;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::queue::QueueLayer;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::token_limit::{Budget, TokenLimitLayer, Window};
use llamatower_layers::usage::UsageLayer;
use llamatower_layers::{BoxError, EndpointTable, Observer, Outcome, OutcomeLayer};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, service_fn};
use tower_http::cors::CorsLayer;
use tower_http::timeout::TimeoutLayer;

struct NoObserver;

impl Observer for NoObserver {
    fn finished(&self, _: &Outcome) {}
}

/// The whole stack inside of tower-http's layers, in front of a server that does not respond.
fn stack(
    limit: Duration,
) -> impl Service<
    Request<Incoming>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    let one = NonZeroUsize::MIN;
    let quota = Quota::per_minute(NonZeroU32::MAX);
    let tokens = Budget::new(NonZeroU64::MAX, Window::Day);
    ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            limit,
        ))
        .layer(EndpointLayer::new(EndpointTable::openai()))
        .layer(OutcomeLayer::new(Arc::new(NoObserver)))
        .layer(RescueLayer::new())
        .layer(PanicGuardLayer::new())
        .layer(RequireEndpointLayer)
        .layer(RateLimitLayer::global(quota))
        .layer(AdmissionLayer::new(one))
        .layer(AdaptiveLayer::new(Duration::from_secs(1)))
        .layer(BodyLimitLayer::new(MemoryBudget::new(1 << 20)))
        .layer(LlmRequestLayer::new())
        .layer(HeartbeatLayer::new(Duration::from_secs(20)))
        .layer(CacheLayer::new(1 << 20, |_| Some("1".into())))
        .layer(TokenLimitLayer::new([tokens], |_: &_| Some(())))
        .layer(RetryLayer::new(RetryBudget::default()))
        .layer(QueueLayer::new(one))
        .layer(UsageLayer::new())
        .layer(BreakerLayer::new(Breaker::new(BreakerPolicy::default())))
        .layer(StreamClocksLayer::new())
        .service(service_fn(async |_: Request<_>| {
            pending::<Result<Response<Incoming>, BoxError>>().await
        }))
}

/// Serves one connection, and returns the URL.
async fn serve_one(limit: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http1::Builder::new();
        let service = TowerToHyperService::new(stack(limit));
        server.serve_connection(TokioIo::new(stream), service).await
    });
    url
}

#[tokio::test]
async fn a_preflight_is_answered_outside_of_the_stack() {
    let url = serve_one(Duration::from_secs(60)).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let preflight = client
        .request(Method::OPTIONS, format!("{url}/v1/chat/completions"))
        .header("origin", "http://localhost")
        .header("access-control-request-method", "POST");
    let answer = preflight.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.text().await.unwrap(), "");
}

#[tokio::test]
async fn the_time_out_of_tower_http_ends_a_request_in_the_stack() {
    let url = serve_one(Duration::from_millis(50)).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(r#"{"model":"m","messages":[]}"#);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.text().await.unwrap(), "");
}
