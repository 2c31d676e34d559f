//! The layers around reqwest's client, with the meaning of an error: prints a whole answer.
//!
//!     cargo run -p llamatower-layers --features full,reqwest --example client_reqwest -- http://127.0.0.1:11434 tiny

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
use llamatower_layers::client::ReqwestService;
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::forward::ForwardLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::{BoxError, Failure};
use tower::{ServiceBuilder, ServiceExt};

async fn ask(url: &str, model: &str) -> Result<String, BoxError> {
    let client = ServiceBuilder::new()
        // A repeated inference has no side effects. A POST is not retried unless this is set.
        .layer(
            RetryLayer::new(RetryBudget::default())
                .with_replayable(|_, _| true)
                .with_observer(|event| eprintln!("{}: {:?}", event.reason, event.decision)),
        )
        .layer(BreakerLayer::new(Breaker::new(BreakerPolicy::default())))
        .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(20)))
        .layer(ForwardLayer::new(url.parse()?)?)
        .service(ReqwestService::new(
            reqwest::Client::builder().no_proxy().build()?,
        ));
    let question = serde_json::json!({"model": model, "prompt": "Why a tower?", "stream": false});
    let request = Request::post("/api/generate").header("content-type", "application/json");
    let request = request.body(Full::<Bytes>::from(question.to_string()))?;
    let answer = client.oneshot(request).await?.into_body();
    let answer: serde_json::Value = serde_json::from_slice(&answer.collect().await?.to_bytes())?;
    Ok(answer["response"].as_str().unwrap_or_default().to_owned())
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next();
    let url = url.as_deref().unwrap_or("http://127.0.0.1:11434");
    let model = arguments.next().unwrap_or_else(|| "tiny".to_owned());
    match ask(url, &model).await {
        Ok(answer) => println!("{answer}"),
        Err(error) => {
            let kind = Failure::find(&*error).map_or("unknown", Failure::kind);
            println!("failed: {error} ({kind})");
        }
    }
}
