//! The layers around a tonic service. In place of `RescueLayer`, a `Failure` becomes a `Status`.
//!
//!     cargo run -p llamatower-layers --features full --example tonic_service
//!     grpc_health_probe -addr=127.0.0.1:4003

use std::num::NonZeroU32;

use http::Response;
use http_body_util::BodyExt;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::{BoxError, Failure, Side};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Code, Status};
use tower::ServiceBuilder;

fn status_of(error: &BoxError) -> Status {
    let Some(failure) = Failure::find(&**error) else {
        return Status::internal("internal error");
    };
    let code = match (failure.status().as_u16(), failure.side()) {
        (429, _) => Code::ResourceExhausted,
        (_, Side::Client) => Code::InvalidArgument,
        (_, Side::Gateway | Side::Upstream) => Code::Unavailable,
    };
    Status::new(code, failure.to_string())
}

fn into_answer<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<Body>, BoxError>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let in_grpc = |body: B| Body::new(body.map_err(|error| status_of(&error.into())));
    Ok(match answer {
        Ok(answer) => answer.map(in_grpc),
        Err(error) => status_of(&error).into_http(),
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4003".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    let (_, health) = tonic_health::server::health_reporter();
    let two_a_minute = Quota::per_minute(NonZeroU32::MIN.saturating_add(1));
    let layers = ServiceBuilder::new()
        .map_result(into_answer)
        .layer(RateLimitLayer::global(two_a_minute));
    Server::builder()
        .layer(layers)
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
