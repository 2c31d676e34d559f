//! The layers and what their constructors take: `use llamatower_layers::prelude::*;`
//!
//! It contains what the features that are on provide.

#[cfg(feature = "adaptive")]
pub use crate::adaptive::AdaptiveLayer;
#[cfg(feature = "admission")]
pub use crate::admission::AdmissionLayer;
#[cfg(feature = "api-key")]
pub use crate::api_key::{ApiKeyLayer, KeySet};
#[cfg(feature = "body-limit")]
pub use crate::body::MemoryBudget;
#[cfg(feature = "body-limit")]
pub use crate::body_limit::BodyLimitLayer;
#[cfg(feature = "breaker")]
pub use crate::breaker::{Breaker, BreakerLayer, BreakerPolicy};
#[cfg(feature = "cache")]
pub use crate::cache::CacheLayer;
#[cfg(feature = "classify")]
pub use crate::classify::ClassifyLayer;
#[cfg(feature = "reqwest")]
pub use crate::client::ReqwestService;
#[cfg(feature = "clocks")]
pub use crate::clocks::StreamClocksLayer;
#[cfg(feature = "endpoint")]
pub use crate::endpoint::{EndpointLayer, EndpointTable, RequireEndpointLayer};
#[cfg(feature = "forward")]
pub use crate::forward::ForwardLayer;
#[cfg(feature = "heartbeat")]
pub use crate::heartbeat::HeartbeatLayer;
#[cfg(feature = "key-concurrency")]
pub use crate::key_concurrency::KeyConcurrencyLayer;
#[cfg(feature = "llm-request")]
pub use crate::llm_request::LlmRequestLayer;
#[cfg(feature = "model-alias")]
pub use crate::model_alias::{Alias, Aliases, ModelAliasLayer};
#[cfg(feature = "outcome")]
pub use crate::outcome::{Observer, OutcomeLayer};
#[cfg(feature = "panic-guard")]
pub use crate::panic_guard::PanicGuardLayer;
#[cfg(feature = "queue")]
pub use crate::queue::QueueLayer;
#[cfg(feature = "rate-limit")]
pub use crate::rate_limit::{Quota, RateLimitLayer};
#[cfg(feature = "rescue")]
pub use crate::rescue::RescueLayer;
#[cfg(feature = "retry")]
pub use crate::retry::{RetryBudget, RetryLayer};
#[cfg(feature = "route")]
pub use crate::route::RouteService;
#[cfg(feature = "token-limit")]
pub use crate::token_limit::{Budget, TokenLimitLayer};
#[cfg(feature = "usage")]
pub use crate::usage::UsageLayer;
pub use crate::{BoxError, Fail, Failure};
