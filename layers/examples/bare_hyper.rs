//! The layers on bare hyper: a server of a fake model that serves two requests at a time.
//!
//!     cargo run -p llamatower-layers --features full --example bare_hyper
//!     curl -N http://127.0.0.1:4001/api/generate -d '{"model":"parrot","prompt":"who is there"}'

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable, RouteMatch};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::filter::FilterLayer;
use tower::{Service, ServiceBuilder, service_fn};

/// Repeats the prompt, one word every 100 ms, in lines like Ollama's.
async fn parrot(
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, BoxError> {
    let question = request.into_body().collect().await?.to_bytes();
    let question: Value = serde_json::from_slice(&question).unwrap_or_default();
    let words = question["prompt"].as_str().unwrap_or_default();
    let words = words
        .split_whitespace()
        .map(|word| json!(format!("{word} ")));
    let lines = words.map(|word| format!("{{\"response\":{word},\"done\":false}}\n"));
    let last = "{\"response\":\"\",\"done\":true}\n".to_owned();
    let lines: Vec<_> = lines.chain([last]).collect();
    let frames = stream::iter(lines).then(async |line| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Frame::data(Bytes::from(line)))
    });
    let answer = Response::builder().header("content-type", "application/x-ndjson");
    Ok(answer.body(StreamBody::new(frames))?)
}

/// The stack, outermost layer first. `RescueLayer` turns all inner errors into answers, so the
/// stack cannot fail.
fn stack() -> impl Service<
    Request<Incoming>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(RescueLayer::new())
        .layer(PanicGuardLayer::new())
        .layer(FilterLayer::new(RouteMatch::require))
        .layer(AdmissionLayer::new(NonZeroUsize::MIN.saturating_add(1)))
        .service(service_fn(parrot))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4001".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    // Built once: all connections share the layers' state.
    let stack = stack();
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(stack.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            let connection = connection.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("{error}");
            }
        });
    }
}
