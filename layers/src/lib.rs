//! Tower layers for LLM traffic: they handle streams, API dialects and the true end of a response.
//!
//! A model's answer is a stream that lasts for minutes, so rules that suit other services are wrong
//! here: a permit that ends at the response head, a circuit breaker that counts a head as a success,
//! a retry after the first byte, an error that looks like a complete answer. Each layer here works
//! until the end of the stream, and one type defines that end ([`body::Guarded`]). Each layer can
//! be used alone: no feature is on by default, `full` turns on all. The feature of a layer has the
//! name of its module, written with `-`: `rate_limit` needs `rate-limit`.
//!
//! A proxy in front of a model server, in axum, with the features `full` and `hyper-util`:
//!
//! ```no_run
//! # #[cfg(all(feature = "full", feature = "hyper-util"))]
//! # mod example {
//! # use std::time::Duration;
//! # use axum::Router;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! # use tower::ServiceBuilder;
//! use llamatower_layers::prelude::*;
//!
//! # async fn example(listener: tokio::net::TcpListener) -> Result<(), BoxError> {
//! let ollama = ServiceBuilder::new()
//!     .layer(EndpointLayer::new(EndpointTable::ollama()))
//!     .layer(RescueLayer::new()) // errors become responses in the API's own format
//!     .layer(BodyLimitLayer::new(MemoryBudget::new(256 << 20))) // bytes
//!     .layer(RetryLayer::new(RetryBudget::default()))
//!     .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(20)))
//!     .layer(ForwardLayer::new("http://gpu-1:11434".parse()?)?)
//!     .service(Client::builder(TokioExecutor::new()).build_http());
//! axum::serve(listener, Router::new().fallback_service(ollama)).await?;
//! # Ok(())
//! # }
//! # }
//! ```
//!
//! The guides: [with axum](guide::with_axum), [with hyper](guide::with_hyper),
//! [around a client](guide::around_a_client), [the order of layers](guide::order_of_layers). Complete
//! programs are in the folder `examples`; each has a command to try.
//!
//! # You have X, take Y
//!
//! | You have | Take | The difference |
//! |---|---|---|
//! | tower `Timeout`, tower-http `TimeoutLayer` | [`StreamClocksLayer`](clocks::StreamClocksLayer) | theirs limit the time to the response head only; here the first byte, each pause and the whole exchange have a limit |
//! | tower-http `ResponseBodyTimeoutLayer` | [`StreamClocksLayer`](clocks::StreamClocksLayer) | theirs creates a timer for each frame, and checks the timer before the data; here one timer is moved, and data goes first |
//! | tower `ConcurrencyLimit` with `LoadShed`, tower-resilience `BulkheadLayer` | [`AdmissionLayer`](admission::AdmissionLayer) | their permit ends at the response head, when a stream has only begun |
//! | tower `ConcurrencyLimit` for each client | [`KeyConcurrencyLayer`](key_concurrency::KeyConcurrencyLayer) | theirs has no keys, no limit on the wait, and its permit ends at the response head |
//! | tower-resilience `AdaptiveLimiterLayer` | [`AdaptiveLayer`](adaptive::AdaptiveLayer) | its permit ends at the response head too |
//! | tower `Buffer` | [`QueueLayer`](queue::QueueLayer) | theirs is first come, first served, without a limit on the wait; here waiting is bounded, fair between keys and visible |
//! | tower `Retry` with a `Policy`, tower-resilience `RetryLayer` | [`RetryLayer`](retry::RetryLayer) | there you write which requests and responses are retried, and a budget is an option; here the route, the errors of clients and `Retry-After` are known, and a budget is required |
//! | tower `RateLimit` | [`RateLimitLayer`](rate_limit::RateLimitLayer) | theirs makes callers wait, has no keys and is not `Clone` |
//! | tower_governor `GovernorLayer` | [`RateLimitLayer`](rate_limit::RateLimitLayer) | both use governor; here idle keys are forgotten without a task of yours, quotas can be replaced, and the error has the API's format |
//! | tower-resilience `CircuitBreakerLayer` | [`BreakerLayer`](breaker::BreakerLayer) | theirs counts a success at the response head; here a stream that breaks is a failure |
//! | tower `Balance` | [`RouteService`](route::RouteService) | theirs chooses before it sees the request, so it cannot choose by model |
//! | tower `Steer` | [`RouteService`](route::RouteService) | theirs waits until every backend is ready; here your policy may wait for one |
//! | tower-http `TraceLayer` | [`OutcomeLayer`] | theirs enters a span and reads the clock for each frame; here one record is reported at the end |
//! | tower-http `CatchPanicLayer` | [`PanicGuardLayer`](panic_guard::PanicGuardLayer) | theirs boxes every body, and does not catch a panic in a body |
//! | tower-http `RequestBodyLimitLayer`, axum `DefaultBodyLimit` | [`BodyLimitLayer`](body_limit::BodyLimitLayer) | theirs limit one body; here each route has a limit, all bodies share a memory budget, and a body can be sent again |
//! | tower-http `ValidateRequestHeaderLayer` | [`ApiKeyLayer`](api_key::ApiKeyLayer) | its `bearer` is deprecated and has one token; here keys have names, roles and digests, and can be replaced |
//! | axum `HandleErrorLayer` | [`RescueLayer`](rescue::RescueLayer) | theirs ends at the response head; here broken streams get an error frame too |
//! | tower-http `CorsLayer`, `CompressionLayer`, request id, sensitive headers, set-header | keep them | they work outside of these layers; do not compress lines of JSON |
//!
//! # The layers
//!
//! In stack order, outermost first. A layer releases what it holds at the time in the third column,
//! however the request ends.
//!
//! | Layer | What it does | What it holds, until when |
//! |---|---|---|
//! | [`EndpointLayer`](endpoint::EndpointLayer) | looks up the path in an exact table: the API dialect and the operation | nothing |
//! | [`OutcomeLayer`] | reports one record for each request, at its end | the record, to the end of the response |
//! | [`RescueLayer`](rescue::RescueLayer) | turns errors into responses in the dialect of the route, adds an error frame to broken streams | the last line of a stream, to its end |
//! | [`PanicGuardLayer`](panic_guard::PanicGuardLayer) | limits a panic to one request | nothing |
//! | [`RequireEndpointLayer`](endpoint::RequireEndpointLayer) | refuses paths and methods that are not in the table | nothing |
//! | [`ApiKeyLayer`](api_key::ApiKeyLayer) | authenticates: Bearer, Basic, `x-api-key` | nothing |
//! | [`RateLimitLayer`](rate_limit::RateLimitLayer) | limits requests per time, globally and for each key | a count for each key, until the key is idle |
//! | [`AdmissionLayer`](admission::AdmissionLayer) | limits concurrent requests, refuses at once | a permit, to the end of the response |
//! | [`BodyLimitLayer`](body_limit::BodyLimitLayer) | reads bodies within a limit for each route and one memory budget | the body's memory, until its last copy is dropped |
//! | [`LlmRequestLayer`](llm_request::LlmRequestLayer) | finds the model and the operation in one pass over the body | nothing |
//! | [`HeartbeatLayer`](heartbeat::HeartbeatLayer) | sends comments while an event stream has not begun | a timer, to the response head |
//! | [`AdaptiveLayer`](adaptive::AdaptiveLayer) | limits concurrent requests, adapts the limit to the time to first byte | a permit, to the end of the response |
//! | [`KeyConcurrencyLayer`](key_concurrency::KeyConcurrencyLayer) | limits the concurrent requests of each key; further ones wait | a turn, to the end of the response |
//! | [`CacheLayer`](cache::CacheLayer) | caches deterministic responses, shares answers in progress | answers, limited in bytes and age |
//! | [`TokenLimitLayer`](token_limit::TokenLimitLayer) | limits tokens per minute, day and month for each key | a reservation, to the end of the response |
//! | [`ModelAliasLayer`](model_alias::ModelAliasLayer) | replaces aliases of models, tries the next model if one cannot answer | a reference to the body, to the response head |
//! | [`RetryLayer`](retry::RetryLayer) | retries until the client has received a byte | a reference to the body, to the response head |
//! | [`RouteService`](route::RouteService) | chooses a backend when the request is known | the backend's slot, to the end of the response |
//! | [`QueueLayer`](queue::QueueLayer), [`Queue`](queue::Queue) | queues requests for a slot: bounded, fair, visible | a permit, to the end of the response |
//! | [`UsageLayer`](usage::UsageLayer) | reads the backend's token counts | the last kilobyte of a response, to its end |
//! | [`BreakerLayer`](breaker::BreakerLayer) | stops requests to a failing backend | a token, to the end of the response |
//! | [`StreamClocksLayer`](clocks::StreamClocksLayer) | time-outs: first byte, idle, total | one timer, to the end of the response |
//! | [`ForwardLayer`](forward::ForwardLayer) | puts a server's address into requests, removes hop-by-hop headers | nothing |
//! | [`ClassifyLayer`](classify::ClassifyLayer) | gives the client's errors a meaning | nothing |
//!
//! # Errors
//!
//! Each layer refuses with its own small error type, which implements [`Fail`]: it gives the
//! [`Side`] that caused the failure, whether it is [`Retryable`], the status and the headers. It
//! travels as a [`Failure`] in a [`BoxError`]; [`retry`] and [`rescue`] find it by walking
//! `source()`. Your own layers can do the same: see `examples/custom_layer.rs`. Errors of other crates
//! get their meaning by [`classify`]: those of hyper-util's client and reqwest are known with the
//! features `hyper-util` and `reqwest`.
//!
//! # What a socket knows
//!
//! A layer cannot see the client's socket: it cannot deliver what came before an error, notice a
//! client that has gone behind a pipelined byte, or end a client that stopped reading. The crate
//! `llamatower-edge` does that below hyper and `axum::serve`.

// docs.rs sets `docsrs`, so that each item shows the feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod body;
#[cfg(feature = "deadline")]
mod deadline;
pub mod dialect;
mod error_cause;
pub mod failure;
#[cfg(any(feature = "rate-limit", feature = "token-limit"))]
mod ratelimit_fields;

#[cfg(feature = "adaptive")]
pub mod adaptive;
#[cfg(feature = "admission")]
pub mod admission;
#[cfg(feature = "api-key")]
pub mod api_key;
#[cfg(feature = "body-limit")]
pub mod body_limit;
#[cfg(feature = "breaker")]
pub mod breaker;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "classify")]
pub mod classify;
#[cfg(feature = "reqwest")]
pub mod client;
#[cfg(feature = "endpoint")]
mod client_address;
#[cfg(feature = "clocks")]
pub mod clocks;
#[cfg(feature = "endpoint")]
pub mod endpoint;
#[cfg(feature = "forward")]
pub mod forward;
#[cfg(feature = "rescue")]
pub mod frames;
#[cfg(all(
    any(doc, doctest),
    feature = "full",
    feature = "hyper-util",
    feature = "reqwest"
))]
pub mod guide;
#[cfg(feature = "heartbeat")]
pub mod heartbeat;
#[cfg(feature = "key-concurrency")]
pub mod key_concurrency;
#[cfg(feature = "live")]
pub mod live;
#[cfg(feature = "llm-request")]
pub mod llm_request;
#[cfg(feature = "model-alias")]
pub mod model_alias;
#[cfg_attr(
    not(feature = "full"),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "which layers there are depends on the features"
    )
)]
mod order;
#[cfg(feature = "outcome")]
pub mod outcome;
#[cfg(feature = "endpoint")]
mod over_tls;
#[cfg(feature = "panic-guard")]
pub mod panic_guard;
pub mod prelude;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "rescue")]
pub mod rescue;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "route")]
pub mod route;
#[cfg_attr(
    not(feature = "full"),
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "which of it is used depends on the features"
    )
)]
mod service;
#[cfg(feature = "endpoint")]
mod shared;
#[cfg(any(feature = "rate-limit", feature = "token-limit"))]
pub mod store;
#[cfg(feature = "token-limit")]
pub mod token_limit;
#[cfg(feature = "usage")]
pub mod usage;

pub use body::Replay;
#[cfg(feature = "endpoint")]
pub use client_address::ClientAddress;
#[cfg(feature = "deadline")]
pub use deadline::Deadline;
pub use dialect::Dialect;
#[cfg(feature = "endpoint")]
pub use endpoint::{Endpoint, EndpointTable, Operation, RouteMatch};
pub use error_cause::ErrorCause;
pub use failure::{BoxError, Fail, Failure, Retryable, Side};
#[cfg(feature = "llm-request")]
pub use llm_request::{KeepAlive, LlmRequest, ModelName};
#[cfg(feature = "outcome")]
pub use outcome::{Ending, Observer, Outcome, OutcomeLayer, Record};
#[cfg(feature = "endpoint")]
pub use over_tls::OverTls;
