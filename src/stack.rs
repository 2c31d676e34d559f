//! The stack: which layers stand in which order. Read it from top to bottom.
//!
//! [`service`] is what every request goes through; [`attempt`] is what belongs to one backend
//! and is gone through once for each attempt.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::api_key::ApiKeyLayer;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::body_limit::{BodyLimitLayer, MemoryBudget};
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable};
use llamatower_layers::llm_request::LlmRequestLayer;
use llamatower_layers::outcome::OutcomeLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rate_limit::RateLimitLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::RetryLayer;
use llamatower_layers::{BoxError, RouteMatch};
use tokio::sync::watch;
use tower::filter::FilterLayer;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::ollama::fleet::{Backend, Fleet, WatchLayer};
use crate::ollama::hold::hold_until_continue;
use crate::ollama::hygiene::{clean_request, clean_response};
use crate::ollama::upstream::Upstream;
use crate::ollama::{AnswerBody, Ollama};
use crate::settings::Settings;
use crate::telemetry::Telemetry;

/// Names the backend that gave an answer.
pub const BACKEND_HEADER: HeaderName = HeaderName::from_static("x-llamatower-backend");

/// Carries the id of a request, the client's own if it sent one.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The service of one backend; `B` is the body that clients send.
pub type Attempt<B> = BoxCloneSyncService<Request<ReplayBody<B>>, Response<AnswerBody>, BoxError>;
