// axum's body streams: a retry would have nothing to send.
//~ `axum::body::Body` cannot be sent a second time: it does not implement `Replay`
//~ place `BodyLimitLayer` outside of this layer: it reads the body into a `ReplayBody`
//~ in a client, send bytes: `http_body_util::Full<Bytes>`, or `ReplayBody::from(bytes)`

use http::{Request, Response};
use llamatower_layers::BoxError;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use tower::{Layer, ServiceExt, service_fn};

pub async fn send(request: Request<axum::body::Body>) -> Result<(), BoxError> {
    let client = service_fn(async |_: Request<axum::body::Body>| {
        Ok::<_, BoxError>(Response::new(axum::body::Body::empty()))
    });
    let client = RetryLayer::new(RetryBudget::default()).layer(client);
    client.oneshot(request).await?;
    Ok(())
}
