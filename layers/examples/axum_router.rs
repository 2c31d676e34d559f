//! The layers around an axum router: API keys, a rate limit for each key, and errors in the dialect
//! of the route.
//!
//!     cargo run -p llamatower-layers --features full --example axum_router
//!     curl http://127.0.0.1:4002/v1/chat/completions -H 'authorization: Bearer KEY' -d '{}'

use std::num::NonZeroU32;

use axum::routing::post;
use axum::{Json, Router};
use http::request::Parts;
use llamatower_layers::api_key::{ApiKeyLayer, Identity, KeySet, Role, generate_key};
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

async fn complete(Json(request): Json<Value>) -> Json<Value> {
    let message = json!({"role": "assistant", "content": "Hello from axum."});
    Json(json!({
        "object": "chat.completion",
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }))
}

fn owner(request: &Parts) -> Option<String> {
    let identity: &Identity = request.extensions.get()?;
    Some(identity.name.to_string())
}

fn router(keys: KeySet) -> Router {
    let two_a_minute = Quota::per_minute(NonZeroU32::MIN.saturating_add(1));
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .layer(
            ServiceBuilder::new()
                .layer(EndpointLayer::new(EndpointTable::ollama()))
                .layer(RescueLayer::new())
                .layer(ApiKeyLayer::new(keys))
                .layer(RateLimitLayer::per_key(two_a_minute, owner)),
        )
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4002".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let (key, line) = generate_key("ada")?;
    println!("http://{}", listener.local_addr()?);
    println!("the key is {key}");
    axum::serve(listener, router(KeySet::from_lines([&*line], Role::User)?)).await?;
    Ok(())
}
