//! The layers on bare hyper: a server of a fake model that serves two requests at a time.
//!
//!     cargo run -p llamatower-layers --features full --example bare_hyper
//!     curl -N http://127.0.0.1:4001/api/generate -d '{"model":"parrot","prompt":"who is there"}'

use std::convert::Infallible;
use std::num::NonZeroUsize;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::endpoint::{EndpointLayer, RequireEndpointLayer};
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable};
use serde_json::{Value, json};
use tower::{ServiceBuilder, service_fn};

/// Repeats the prompt, one word every 100 ms, in lines like Ollama's.
async fn parrot(
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, BoxError> {
    let question = request.into_body().collect().await?.to_bytes();
    let question: Value = serde_json::from_slice(&question).unwrap_or_default();
    let words = question["prompt"].as_str().unwrap_or_default();
    let line = |word: &str| json!({"response": format!("{word} "), "done": false}).to_string();
    let mut lines: Vec<String> = words.split_whitespace().map(line).collect();
    lines.push(json!({"response": "", "done": true}).to_string());
    let frames = stream::iter(lines).then(async |line| {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        Ok(Frame::data(Bytes::from(line + "\n")))
    });
    let answer = Response::builder().header("content-type", "application/x-ndjson");
    Ok(answer.body(StreamBody::new(frames))?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4001".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    let stack = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(RescueLayer::new())
        .layer(RequireEndpointLayer)
        .layer(AdmissionLayer::new(NonZeroUsize::MIN.saturating_add(1)))
        .service(service_fn(parrot)); // built once: all connections share its state
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(stack.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
