//! A gateway in front of one server of OpenAI's API, like vLLM. It passes only the paths of that API
//! and of vLLM, and every error has OpenAI's format.
//!
//!     cargo run -p llamatower-layers --features full,hyper-util --example openai_gateway -- http://127.0.0.1:8000
//!     curl http://127.0.0.1:4008/v1/models

use std::time::Duration;

use http::Method;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::{EndpointLayer, InvalidPath, RequireEndpointLayer};
use llamatower_layers::forward::ForwardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, Dialect, EndpointTable, Operation};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

/// OpenAI's routes, and what vLLM has besides.
fn endpoints() -> Result<EndpointTable, InvalidPath> {
    use Dialect::{OpenAi, Text};
    EndpointTable::openai()
        .route("/v1/rerank", &[Method::POST], OpenAi, Operation::Extra)?
        .route("/health", &[Method::GET], Text, Operation::Status)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let backend = arguments.next().ok_or("the server's URL is missing")?;
    let port = arguments.next().unwrap_or_else(|| "4008".to_owned());
    let stack = ServiceBuilder::new()
        .layer(EndpointLayer::new(endpoints()?))
        .layer(RescueLayer::new())
        .layer(RequireEndpointLayer)
        .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(60)))
        .layer(ForwardLayer::new(backend.parse()?)?)
        .service(Client::builder(TokioExecutor::new()).build_http());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(stack.clone());
        let server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
}
