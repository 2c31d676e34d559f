//! The layers around a tonic service. In place of `RescueLayer`, a `Failure` becomes a `Status`, also in the
//! middle of a stream: a watch that is silent for a second ends with `DEADLINE_EXCEEDED`.
//!
//!     cargo run -p llamatower-layers --features full --example tonic_service
//!     grpc_health_probe -addr=127.0.0.1:4003

use std::error::Error;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::TryStreamExt;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyStream, StreamBody};
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::{BoxError, Failure};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Server;
use tower::ServiceBuilder;

fn status_of(error: &(dyn Error + 'static)) -> Status {
    match Failure::find(error) {
        Some(failure) => Status::new(failure.grpc_code().into(), failure.to_string()),
        None => Status::internal("internal error"),
    }
}

/// A body that ends with the trailers of a status where the inner one fails. After a body's error, the server
/// would reset the stream, and the client would see an error of HTTP/2.
fn with_status(body: Body) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    let frames = BodyStream::new(body).or_else(async |error| {
        let mut trailers = HeaderMap::new();
        let written = status_of(&error).add_header(&mut trailers);
        written.map(|()| Frame::trailers(trailers))
    });
    Body::new(StreamBody::new(frames))
}

fn into_answer<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<Body>, BoxError>
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Ok(match answer {
        Ok(answer) => answer.map(|body| with_status(Body::new(body))),
        Err(error) => status_of(&*error).into_http(),
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4003".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    let two = NonZeroU32::MIN.saturating_add(1);
    let layers = ServiceBuilder::new()
        .map_result(into_answer)
        .layer(RateLimitLayer::global(Quota::per_minute(two)))
        .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(1)));
    Server::builder()
        .layer(layers)
        .add_service(tonic_health::server::health_reporter().1)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
