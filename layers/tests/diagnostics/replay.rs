// axum's body streams: a retry would have nothing to send.
//~ `Body` cannot be sent a second time: it does not implement `Replay`
//~ place `BodyLimitLayer` outside of this layer: it reads the body into a `ReplayBody`
//~ in a client, send bytes: `http_body_util::Full<Bytes>`, or `ReplayBody::from(bytes)`

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use llamatower_layers::BoxError;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use tower::{ServiceBuilder, service_fn};

pub fn router() -> Router {
    let backend = service_fn(async |_: Request<Body>| {
        Ok::<_, BoxError>(Response::new(Body::empty()))
    });
    let stack = ServiceBuilder::new()
        .layer(RescueLayer::new())
        .layer(RetryLayer::new(RetryBudget::default()))
        .service(backend);
    Router::new().fallback_service(stack)
}
