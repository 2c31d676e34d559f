//! Around a tonic service, whose own layers stand outside and inside.

use std::time::Duration;

use http_body_util::BodyExt;
use llamatower_layers::BoxError;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rate_limit::RateLimitLayer;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceBuilder;
use tower_http::ServiceBuilderExt as _;

use crate::layers::{adaptive, admission, breaker, clocks, outcome, queue, quota, route};
use crate::support::listener;

fn into_answer<B, E>(answer: Result<http::Response<B>, E>) -> Result<http::Response<Body>, BoxError>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    let answer = answer.map_err(Into::into)?;
    Ok(answer.map(|body| Body::new(body.map_err(|error| tonic::Status::from_error(error.into())))))
}

#[tokio::test]
async fn the_layers_work_around_a_tonic_service_and_its_client() {
    let (listener, address) = listener().await;
    let (_, health) = tonic_health::server::health_reporter();
    let outer = ServiceBuilder::new()
        .map_result(into_answer)
        .trace_for_grpc()
        .layer(outcome())
        .layer(PanicGuardLayer::new())
        .layer(RateLimitLayer::global(quota()))
        .timeout(Duration::from_secs(30))
        .layer(admission())
        .layer(adaptive())
        .layer(queue());
    let server = Server::builder()
        .timeout(Duration::from_secs(30))
        .concurrency_limit_per_connection(64)
        .layer(outer)
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);

    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let client = ServiceBuilder::new()
        .map_result(into_answer)
        .layer(queue())
        .layer(route())
        .concurrency_limit(64)
        .layer(breaker())
        .map_request(|request: http::Request<_>| request.map(Body::new))
        .layer(clocks())
        .map_request(|request: http::Request<_>| request.map(Body::new))
        .service(channel.expect("a valid URI").connect_lazy());
    let answer = HealthClient::new(client)
        .check(HealthCheckRequest::default())
        .await;
    assert_eq!(answer.expect("an answer").into_inner().status, 1);
}
