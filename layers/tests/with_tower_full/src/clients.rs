//! Around reqwest's client and hyper-util's, with tower's layers between ours.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use llamatower_layers::BoxError;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::rate_limit::RateLimitLayer;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_http::ServiceBuilderExt as _;

use crate::layers::{admission, breaker, clocks, queue, quota, retry, route};
use crate::support::{ANSWER, QUESTION, answer, serve};

/// A body that can be sent again.
type Sent = ReplayBody<Empty<Bytes>>;

macro_rules! client {
    ($client:expr) => {
        ServiceBuilder::new()
            .set_x_request_id(tower_http::request_id::MakeRequestUuid)
            .trace_for_http()
            .map_err(BoxError::from)
            .layer(RateLimitLayer::global(quota()))
            .layer(queue())
            .layer(admission())
            .timeout(Duration::from_secs(30))
            .layer(retry().with_replayable(|_, _| true))
            .layer(route())
            .concurrency_limit(64)
            .layer(breaker())
            .layer(clocks())
            .decompression()
            .service($client)
    };
}

async fn request() -> Request<Sent> {
    let address = serve(service_fn(answer)).await;
    let request = Request::post(format!("http://{address}/api/chat"));
    request
        .body(Sent::from(Bytes::from(QUESTION)))
        .expect("a valid request")
}

#[tokio::test]
async fn the_layers_work_around_the_client_of_hyper_util() {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client!(client)
        .oneshot(request().await)
        .await
        .expect("an answer");
    let text = answer.into_body().collect().await.expect("a whole answer");
    assert_eq!(text.to_bytes(), ANSWER);
}

#[tokio::test]
async fn the_layers_work_around_the_client_of_reqwest() {
    let client = ServiceBuilder::new()
        .map_response(Response::<reqwest::Body>::from)
        .map_request(|request: Request<_>| {
            reqwest::Request::try_from(request.map(reqwest::Body::wrap))
                .expect("a request with a URL")
        })
        .service(reqwest::Client::new());
    let answer = client!(client)
        .oneshot(request().await)
        .await
        .expect("an answer");
    let text = answer.into_body().collect().await.expect("a whole answer");
    assert_eq!(text.to_bytes(), ANSWER);
}
