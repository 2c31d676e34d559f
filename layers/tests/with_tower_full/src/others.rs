//! What stands beside our layers.

use std::future::Ready;

/// tower's layers, and those of tower-http that stand in most servers, by their methods where they have one, so that a
/// method of ours with the same name would be seen.
macro_rules! others {
    ($builder:expr) => {
        $builder
            .trace_for_http()
            .request_body_limit(1 << 20)
            .override_response_header(
                http::HeaderName::from_static("x-set-by"),
                http::HeaderValue::from_static("tower-http"),
            )
            .load_shed()
            .concurrency_limit(64)
            .timeout(std::time::Duration::from_secs(30))
            .retry(crate::others::Never)
            .buffer(64)
            .rate_limit(1_000_000, std::time::Duration::from_secs(1))
    };
}

/// tower-http's layers that make a response of their own, and so need a body with a `Default`. The body of tower-http's
/// own `trace` has none, so they stand inside of it.
macro_rules! with_answers_of_their_own {
    ($builder:expr) => {
        $builder
            .layer(tower_http::cors::CorsLayer::permissive())
            .layer(tower_http::timeout::TimeoutLayer::with_status_code(
                http::StatusCode::GATEWAY_TIMEOUT,
                std::time::Duration::from_secs(30),
            ))
    };
}

/// A policy of tower's `Retry` that does not retry.
#[derive(Clone, Copy)]
pub(crate) struct Never;

impl<Q, P, E> tower::retry::Policy<Q, P, E> for Never {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Q, _: &mut Result<P, E>) -> Option<Self::Future> {
        None
    }

    fn clone_request(&mut self, _: &Q) -> Option<Q> {
        None
    }
}
