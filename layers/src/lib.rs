//! Tower layers for LLM traffic: they know streams, dialects and what the end of an answer is.
//!
//! The answer of a model is a stream that lasts for minutes, so what is right for other services is
//! wrong here: a permit that ends at the head of the answer, a time-out that counts a long answer
//! as a fault, a retry after the first byte, an error that looks like a finished answer. Each layer
//! here holds on to the end of the stream, by one rule of what the end is
//! ([`body::Guarded`]), and each can be had alone: nothing is on by default, `full` turns all on.
//!
//! # The layers
//!
//! In the order in which they stand in a stack, outermost first. What a layer holds, it gives back
//! at the time named, however the request ends.
//!
//! | Layer | What it does | Holds, until when | In the place of, and why |
//! |---|---|---|---|
//! | [`EndpointLayer`](endpoint::EndpointLayer) | looks the path up in an exact table | nothing | a router: it says whose dialect is spoken, and refuses nothing |
//! | [`OutcomeLayer`] | one record for a request, told at its end | the record, to the end of the answer | tower-http `trace`, which enters its span and reads the clock for each frame |
//! | [`RescueLayer`](rescue::RescueLayer) | errors become answers in the dialect of the route, broken streams get an error frame | the last line of a stream, to its end | a `HandleError` that each route writes for itself |
//! | [`PanicGuardLayer`](panic_guard::PanicGuardLayer) | a panic fails one request | nothing | tower-http `catch-panic`, which boxes every body and misses panics inside of one |
//! | [`ApiKeyLayer`](api_key::ApiKeyLayer) | who is asking: Bearer, Basic, `x-api-key` | nothing | tower-http `validate-request`: digests, constant time, and the credential goes no further |
//! | [`RateLimitLayer`](rate_limit::RateLimitLayer) | requests in a time, for all and for each key | a count for each key, until it is idle | tower `RateLimit`, which makes callers wait, knows no keys and is not `Clone` |
//! | [`AdmissionLayer`](admission::AdmissionLayer) | a hard cap that refuses at once | a permit, to the end of the answer | tower `ConcurrencyLimit` with `LoadShed`, whose permit ends at the head |
//! | [`AdaptiveLayer`](adaptive::AdaptiveLayer) | a cap that finds its height by the time to first byte | a permit, to the end of the answer | the same |
//! | [`BodyLimitLayer`](body_limit::BodyLimitLayer) | reads bodies within a limit by route and one memory budget | the body's memory, until its last copy is dropped | tower-http `RequestBodyLimit`, which answers in its own words and knows no budget |
//! | [`LlmRequestLayer`](llm_request::LlmRequestLayer) | what is asked of which model, in one pass over the body | nothing | nothing like it |
//! | [`CacheLayer`](cache::CacheLayer) | keeps deterministic answers, shares those under way | answers, within a bound of bytes and a time | nothing like it |
//! | [`TokenLimitLayer`](token_limit::TokenLimitLayer) | tokens in a minute, a day, a month, for each key | a reservation, to the end of the answer | nothing like it |
//! | [`RetryLayer`](retry::RetryLayer) | asks again while the client has not seen a byte | a reference to the body, to the head of the answer | tower `Retry`, whose policy needs a clone of the body and whose budget knows no time to wait |
//! | [`Route`](route::Route) | the choice of a backend when the request is known | its slot, to the end of the answer | tower `Balance` and `Steer`, which choose before they see the request |
//! | [`QueueLayer`](queue::QueueLayer), [`Queue`](queue::Queue) | a bounded, fair, visible wait for a slot | a permit, to the end of the answer | tower `Buffer`: first come first served, unbounded in time |
//! | [`UsageLayer`](usage::UsageLayer) | how many tokens the backend counted | the last kilobyte of an answer, to its end | nothing like it |
//! | [`BreakerLayer`](breaker::BreakerLayer) | leaves a failing backend alone | a token, to the end of the answer | nothing like it |
//! | [`StreamClocksLayer`](clocks::StreamClocksLayer) | first byte, idle, total | one timer, to the end of the answer | tower and tower-http `Timeout`, which count a long answer as a fault |
//!
//! Used as they are: tower's `ServiceBuilder`, `service_fn`, `filter`, `map_request`; tower-http's
//! request id, sensitive headers, CORS and set-header.
//!
//! # Errors
//!
//! A layer refuses with a small error type of its own that implements [`Fail`]: whose [`Side`] it is
//! on, whether it is [`Retryable`], which status and headers it has. It travels as a [`Failure`] in a
//! [`BoxError`], which [`retry`] and [`rescue`] find by walking `source()`. A layer of your own does the
//! same; `examples/custom_layer.rs` is one.
//!
//! # A stack
//!
//! [`ServiceBuilderExt`] has a method for each layer:
//!
//! ```
//! use std::num::NonZeroUsize;
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use llamatower_layers::clocks::StreamClocksLayer;
//! use llamatower_layers::{BoxError, EndpointTable, ServiceBuilderExt};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::convert::Infallible> {
//! let stack = ServiceBuilder::new()
//!     .endpoints(EndpointTable::ollama())
//!     .rescue()
//!     .panic_guard()
//!     .admission(NonZeroUsize::new(100).expect("not zero"))
//!     .stream_clocks(StreamClocksLayer::new().with_idle(Duration::from_secs(20)))
//!     .service(service_fn(async |_: Request<_>| {
//!         Ok::<_, BoxError>(Response::new(Full::<bytes::Bytes>::from("{}")))
//!     }));
//! let request = Request::post("/api/chat").body(Full::<bytes::Bytes>::default());
//! assert!(stack.oneshot(request.expect("a request")).await?.status().is_success());
//! # Ok(())
//! # }
//! ```

// docs.rs sets it, so that each item says which feature it needs.
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
#[cfg(feature = "builder")]
mod builder;
#[cfg(feature = "cache")]
pub mod cache;
#[cfg(feature = "endpoint")]
mod client_address;
#[cfg(feature = "clocks")]
pub mod clocks;
#[cfg(feature = "endpoint")]
pub mod endpoint;
#[cfg(feature = "rescue")]
pub mod frames;
#[cfg(feature = "llm-request")]
pub mod llm_request;
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
#[cfg(feature = "endpoint")]
mod shared;
#[cfg(any(feature = "rate-limit", feature = "token-limit"))]
pub mod store;
#[cfg(feature = "token-limit")]
pub mod token_limit;
#[cfg(feature = "usage")]
pub mod usage;

pub use body::Replay;
#[cfg(feature = "builder")]
pub use builder::ServiceBuilderExt;
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
