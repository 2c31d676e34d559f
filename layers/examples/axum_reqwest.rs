//! An axum router that forwards to Ollama by reqwest, with a circuit breaker.
//!
//!     cargo run -p llamatower-layers --features full,reqwest --example axum_reqwest
//!     curl http://127.0.0.1:4007/v1/chat/completions -H 'content-type: application/json' \
//!         -d '{"model": "llama3.2", "messages": [{"role": "user", "content": "Why a tower?"}]}'

use std::time::Duration;

use axum::Router;
use http::Uri;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::BodyLimitLayer;
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
use llamatower_layers::client::ReqwestService;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::forward::ForwardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::{BoxError, EndpointTable};
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tower::ServiceBuilder;

fn proxy(server: Uri) -> Result<Router, BoxError> {
    // A proxy passes redirects on, and uses no proxy of the environment itself.
    let reqwest = reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .build()?;
    let breaker = Breaker::new(BreakerPolicy::default());
    let ollama = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        // Outside of all that can fail: axum accepts only services that do not.
        .layer(RescueLayer::new())
        // Reads the request, so that it can be sent again.
        .layer(BodyLimitLayer::new(MemoryBudget::new(256 << 20)))
        .layer(RetryLayer::new(RetryBudget::default()))
        .layer(BreakerLayer::new(breaker))
        .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(20)))
        .layer(ForwardLayer::new(server)?)
        .service(ReqwestService::new(reqwest));
    Ok(Router::new().fallback_service(ollama))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap_or_else(|| "4007".to_owned());
    let server = arguments.next();
    let server = server.as_deref().unwrap_or("http://127.0.0.1:11434");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, proxy(server.parse()?)?).await?;
    Ok(())
}
