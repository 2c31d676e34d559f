//! The layers around a tonic service. In place of `RescueLayer`, a `Failure` becomes a `Status`, also in the
//! middle of a stream: a watch that is silent for a second ends with `UNAVAILABLE`.
//!
//!     cargo run -p llamatower-layers --features full --example tonic_service
//!     grpc_health_probe -addr=127.0.0.1:4003

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::{BodyStream, StreamBody};
use llamatower_layers::clocks::StreamClocksLayer;
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

/// A body that ends with the trailers of a status where the inner one fails. After a body's error, the server
/// would reset the stream, and the client would see an error of HTTP/2.
fn with_status<B>(body: B) -> Body
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Body::empty();
    }
    let frames = BodyStream::new(body).map(|frame| {
        frame.or_else(|error| {
            let mut trailers = HeaderMap::new();
            status_of(&error.into()).add_header(&mut trailers)?;
            Ok::<_, Status>(Frame::trailers(trailers))
        })
    });
    Body::new(StreamBody::new(frames))
}

fn into_answer<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<Body>, BoxError>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Ok(match answer {
        Ok(answer) => answer.map(with_status),
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
        .layer(RateLimitLayer::global(two_a_minute))
        .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(1)));
    Server::builder()
        .layer(layers)
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
