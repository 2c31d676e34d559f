//! The layers around hyper-util's client: prints the lines of a streamed answer as they arrive.
//!
//!     cargo run -p llamatower-layers --features full,hyper-util --example client_hyper -- http://127.0.0.1:11434 tiny

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use llamatower_layers::BoxError;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::forward::ForwardLayer;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use tower::{ServiceBuilder, ServiceExt};

async fn ask(url: &str, model: &str) -> Result<(), BoxError> {
    let client = ServiceBuilder::new()
        .layer(RateLimitLayer::global(Quota::per_minute(
            NonZeroU32::MIN.saturating_add(99),
        )))
        // A repeated inference has no side effects. A POST is not retried unless this is set.
        .layer(RetryLayer::new(RetryBudget::default()).with_replayable(|_, _| true))
        .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(20)))
        .layer(ForwardLayer::new(url.parse()?)?)
        .service(Client::builder(TokioExecutor::new()).build_http());
    let question = serde_json::json!({"model": model, "prompt": "Why a tower?"});
    let request = Request::post("/api/generate").header("content-type", "application/json");
    let request = request.body(Full::<Bytes>::from(question.to_string()))?;
    let mut body = client.oneshot(request).await?.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            print!("{}", String::from_utf8_lossy(&data));
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next();
    let url = url.as_deref().unwrap_or("http://127.0.0.1:11434");
    let model = arguments.next().unwrap_or_else(|| "tiny".to_owned());
    if let Err(error) = ask(url, &model).await {
        println!("failed: {error}");
    }
}
