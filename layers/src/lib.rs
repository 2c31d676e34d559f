//! Tower layers for LLM traffic: they know streams, dialects and what the end of an answer is.

pub mod body;
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
#[cfg(any(feature = "rate-limit", feature = "token-limit"))]
pub mod store;
#[cfg(feature = "token-limit")]
pub mod token_limit;
#[cfg(feature = "usage")]
pub mod usage;

pub use body::Replay;
pub use dialect::Dialect;
#[cfg(feature = "endpoint")]
pub use endpoint::{Endpoint, EndpointTable, Operation, RouteMatch};
pub use failure::{BoxError, Fail, Failure, Retryable, Side};
#[cfg(feature = "llm-request")]
pub use llm_request::{KeepAlive, LlmRequest, ModelName};
#[cfg(feature = "outcome")]
pub use outcome::{Ending, Observer, Outcome, OutcomeLayer, Record};
