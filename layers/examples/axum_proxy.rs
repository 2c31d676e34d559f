//! An axum router that forwards to Ollama: hyper-util's client is the innermost service.
//!
//!     cargo run -p llamatower-layers --features full,hyper-util --example axum_proxy
//!     curl http://127.0.0.1:4006/api/generate -d '{"model": "llama3.2", "prompt": "Why a tower?"}'

use std::num::NonZeroUsize;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::BodyLimitLayer;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::forward::ForwardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::{BoxError, EndpointTable};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

fn proxy(server: Uri) -> Result<Router, BoxError> {
    let clocks = StreamClocksLayer::new()
        .with_first_byte(Duration::from_secs(120))
        .with_idle(Duration::from_secs(20));
    let ollama = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        // Outside of all that can fail: axum accepts only services that do not.
        .layer(RescueLayer::new())
        .layer(AdmissionLayer::new(NonZeroUsize::MIN.saturating_add(99)))
        // Reads the request, so that it can be sent again.
        .layer(BodyLimitLayer::new(MemoryBudget::new(256 << 20)))
        .layer(RetryLayer::new(RetryBudget::default()))
        .layer(clocks)
        .layer(ForwardLayer::new(server)?)
        .service(Client::builder(TokioExecutor::new()).build_http());
    let health = get(async || "ok");
    Ok(Router::new()
        .route("/health", health)
        .fallback_service(ollama))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap_or_else(|| "4006".to_owned());
    let server = arguments.next();
    let server = server.as_deref().unwrap_or("http://127.0.0.1:11434");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, proxy(server.parse()?)?).await?;
    Ok(())
}
