//! Each layer alone, outside and inside of the others, on hyper and in an axum router.

use axum::Router;
use axum::routing::post;
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rate_limit::RateLimitLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::token_limit::TokenLimitLayer;
use llamatower_layers::usage::UsageLayer;
use tower::{ServiceBuilder, service_fn};
use tower_http::ServiceBuilderExt as _;

use crate::layers::{
    adaptive, admission, api_key, body_limit, breaker, budget, cache, clocks, endpoint, heartbeat,
    key_of, model_alias, outcome, queue, quota, retry, route,
};
use crate::support::{answer, expect_answer, serve, serve_router};

/// Four tests for each layer. The layers after the name are the one to test, with what it needs outside of it.
macro_rules! each {
    ($($name:ident: $($layer:expr),+;)+) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn works_outside_of_the_others_on_hyper() {
                let ours = ServiceBuilder::new().layer(endpoint()).layer(RescueLayer::new())$(.layer($layer))+;
                let stack = with_answers_of_their_own!(others!(ours)).service(service_fn(answer));
                expect_answer(serve(stack).await).await;
            }

            #[tokio::test]
            async fn works_inside_of_the_others_on_hyper() {
                let outer = with_answers_of_their_own!(ServiceBuilder::new());
                let outer = outer.layer(endpoint()).layer(RescueLayer::new());
                let stack = others!(outer)$(.layer($layer))+.service(service_fn(answer));
                expect_answer(serve(stack).await).await;
            }

            #[tokio::test]
            async fn works_outside_of_the_others_in_axum() {
                let ours = ServiceBuilder::new().layer(endpoint()).layer(RescueLayer::new())$(.layer($layer))+;
                let stack = with_answers_of_their_own!(others!(ours));
                let router = Router::new().route("/api/chat", post(axum_answer)).layer(stack);
                expect_answer(serve_router(router).await).await;
            }

            /// axum gives every body its own type between two calls of `layer`, so that tower-http's layers with
            /// answers of their own can stand outside of ours.
            #[tokio::test]
            async fn works_inside_of_the_others_in_axum() {
                let outer = ServiceBuilder::new().layer(endpoint()).layer(RescueLayer::new());
                let stack = others!(outer)$(.layer($layer))+;
                let router = Router::new()
                    .route("/api/chat", post(axum_answer))
                    .layer(stack)
                    .layer(with_answers_of_their_own!(ServiceBuilder::new()));
                expect_answer(serve_router(router).await).await;
            }
        }
    )+};
}

async fn axum_answer(question: String) -> ([(&'static str, &'static str); 1], &'static str) {
    assert_eq!(question, crate::support::QUESTION);
    (
        [("content-type", "application/json")],
        crate::support::ANSWER,
    )
}

each! {
    the_endpoint_layer: endpoint();
    the_outcome_layer: outcome();
    the_rescue_layer: RescueLayer::new();
    the_panic_guard: PanicGuardLayer::new();
    the_api_key_layer: api_key();
    the_global_rate_limit: RateLimitLayer::global(quota());
    the_rate_limit_per_key: RateLimitLayer::per_key(quota(), key_of);
    the_admission_layer: admission();
    the_adaptive_layer: adaptive();
    the_body_limit: body_limit();
    the_llm_request_layer: body_limit(), LlmRequestLayer::new();
    the_heartbeat_layer: body_limit(), LlmRequestLayer::new(), heartbeat();
    the_cache_layer: body_limit(), LlmRequestLayer::new(), cache();
    the_token_limit: UsageLayer::new(), TokenLimitLayer::new([budget()], key_of);
    the_model_alias_layer: body_limit(), LlmRequestLayer::new(), model_alias();
    the_retry_layer: body_limit(), retry();
    the_queue_layer: queue();
    the_route: route();
    the_usage_layer: UsageLayer::new();
    the_breaker: breaker();
    the_stream_clocks: clocks();
}
