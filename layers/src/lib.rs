//! Tower layers for LLM traffic: they handle streams, API dialects and the true end of a response.
//!
//! A model's answer is a stream that lasts for minutes, so rules that suit other services are wrong
//! here: a permit that ends at the response head, a time-out that counts a long response as a fault,
//! a retry after the first byte, an error that looks like a complete answer. Each layer here works
//! until the end of the stream, and one type defines that end ([`body::Guarded`]). Each layer can
//! be used alone: no feature is on by default, `full` turns on all.
//!
//! # The layers
//!
//! The table lists the layers in stack order, outermost first. A layer releases what it holds at
//! the time in the third column, however the request ends.
//!
//! | Layer | What it does | What it holds, until when | Alternative, and why not |
//! |---|---|---|---|
//! | [`EndpointLayer`](endpoint::EndpointLayer) | looks up the path in an exact table | nothing | a router: this layer also gives the API dialect, and refuses nothing |
//! | [`OutcomeLayer`] | reports one record for each request, at its end | the record, to the end of the response | tower-http `trace`, which enters its span and reads the clock for each frame |
//! | [`RescueLayer`](rescue::RescueLayer) | turns errors into responses in the dialect of the route, adds an error frame to broken streams | the last line of a stream, to its end | a `HandleError` that each route writes for itself |
//! | [`PanicGuardLayer`](panic_guard::PanicGuardLayer) | limits a panic to one request | nothing | tower-http `catch-panic`, which boxes every body and does not catch a panic in a body |
//! | [`ApiKeyLayer`](api_key::ApiKeyLayer) | authenticates: Bearer, Basic, `x-api-key` | nothing | tower-http `validate-request`, which has no digests and no constant-time comparison, and passes the credential on |
//! | [`RateLimitLayer`](rate_limit::RateLimitLayer) | limits requests per time, globally and for each key | a count for each key, until the key is idle | tower `RateLimit`, which makes callers wait, has no keys and is not `Clone` |
//! | [`AdmissionLayer`](admission::AdmissionLayer) | limits concurrent requests, refuses at once | a permit, to the end of the response | tower `ConcurrencyLimit` with `LoadShed`, whose permit ends at the response head |
//! | [`AdaptiveLayer`](adaptive::AdaptiveLayer) | limits concurrent requests, adapts the limit to the time to first byte | a permit, to the end of the response | the same |
//! | [`BodyLimitLayer`](body_limit::BodyLimitLayer) | reads bodies within a limit for each route and one memory budget | the body's memory, until its last copy is dropped | tower-http `RequestBodyLimit`, which has a fixed answer text and no budget |
//! | [`LlmRequestLayer`](llm_request::LlmRequestLayer) | finds the model and the operation in one pass over the body | nothing | none |
//! | [`HeartbeatLayer`](heartbeat::HeartbeatLayer) | sends comments while an event stream has not begun | a timer, to the response head | none |
//! | [`CacheLayer`](cache::CacheLayer) | caches deterministic responses, shares answers in progress | answers, limited in bytes and age | none |
//! | [`TokenLimitLayer`](token_limit::TokenLimitLayer) | limits tokens per minute, day and month for each key | a reservation, to the end of the response | none |
//! | [`RetryLayer`](retry::RetryLayer) | retries until the client has received a byte | a reference to the body, to the response head | tower `Retry`, whose policy needs a clone of the body and whose budget has no delay |
//! | [`RouteService`](route::RouteService) | chooses a backend when the request is known | the backend's slot, to the end of the response | tower `Balance` and `Steer`, which choose before they see the request |
//! | [`QueueLayer`](queue::QueueLayer), [`Queue`](queue::Queue) | queues requests for a slot: bounded, fair, visible | a permit, to the end of the response | tower `Buffer`: first come first served, no limit on the wait |
//! | [`UsageLayer`](usage::UsageLayer) | reads the backend's token counts | the last kilobyte of a response, to its end | none |
//! | [`BreakerLayer`](breaker::BreakerLayer) | stops requests to a failing backend | a token, to the end of the response | none |
//! | [`StreamClocksLayer`](clocks::StreamClocksLayer) | time-outs: first byte, idle, total | one timer, to the end of the response | tower and tower-http `Timeout`, which count a long response as a fault |
//! | [`ForwardLayer`](forward::ForwardLayer) | puts a server's address into requests, removes hop-by-hop headers | nothing | none |
//! | [`ClassifyLayer`](classify::ClassifyLayer) | gives the client's errors a meaning | nothing | tower `MapErr`, which does not see errors of the body |
//!
//! Other tower middleware works beside these layers: tower's `ServiceBuilder`, `service_fn`,
//! `filter`, `map_request`; tower-http's request id, sensitive headers, CORS and set-header.
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
//! # Clients
//!
//! hyper-util's `Client` is a tower service, and so is reqwest's client in a
//! [`ReqwestService`](client::ReqwestService). A proxy is a stack around one of them, with
//! [`ForwardLayer`](forward::ForwardLayer) directly outside: `examples/axum_proxy.rs` and
//! `examples/axum_reqwest.rs` are axum routers, `examples/client_hyper.rs` and
//! `examples/client_reqwest.rs` are programs that ask a model.
//!
//! # A stack
//!
//! tower's `ServiceBuilder` takes each layer by `layer`, outermost first:
//!
//! ```
//! use std::num::NonZeroUsize;
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use llamatower_layers::admission::AdmissionLayer;
//! use llamatower_layers::clocks::StreamClocksLayer;
//! use llamatower_layers::endpoint::EndpointLayer;
//! use llamatower_layers::panic_guard::PanicGuardLayer;
//! use llamatower_layers::rescue::RescueLayer;
//! use llamatower_layers::{BoxError, EndpointTable};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let stack = ServiceBuilder::new()
//!     .layer(EndpointLayer::new(EndpointTable::ollama()))
//!     .layer(RescueLayer::new())
//!     .layer(PanicGuardLayer::new())
//!     .layer(AdmissionLayer::new(NonZeroUsize::new(100).expect("not zero")))
//!     .layer(StreamClocksLayer::new().with_idle(Duration::from_secs(20)))
//!     .service(service_fn(async |_: Request<_>| {
//!         Ok::<_, BoxError>(Response::new(Full::<bytes::Bytes>::from("{}")))
//!     }));
//! let request = Request::post("/api/chat").body(Full::<bytes::Bytes>::default());
//! assert!(stack.oneshot(request.expect("a request")).await?.status().is_success());
//! # Ok(())
//! # }
//! ```

// docs.rs sets `docsrs`, so that each item shows the feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod body;
#[cfg(feature = "deadline")]
mod deadline;
pub mod dialect;
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
#[cfg(feature = "heartbeat")]
pub mod heartbeat;
#[cfg(feature = "live")]
pub mod live;
#[cfg(feature = "llm-request")]
pub mod llm_request;
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
#[cfg(feature = "panic-guard")]
pub mod panic_guard;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;
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
pub use failure::{BoxError, Fail, Failure, Retryable, Side};
#[cfg(feature = "llm-request")]
pub use llm_request::{KeepAlive, LlmRequest, ModelName};
#[cfg(feature = "outcome")]
pub use outcome::{Ending, Observer, Outcome, OutcomeLayer, Record};
