//! The token usage of a response, as counted by the backend.
//!
//! Every dialect sends the counts at the end of a stream: Ollama in the line with `done:true`, OpenAI
//! in the chunk before `[DONE]`, Anthropic in `message_delta`. A response of one object has members
//! for them, often but not always the last ones. [`UsageLayer`] keeps the last kilobyte of a stream, or
//! these members of an object, reads the counts from it once, when the response ends, and fills the
//! response's [`UsageReport`]. The report is in the request's [`Record`](crate::Record), otherwise in
//! the response's extensions. The frames themselves pass through unchanged.
//!
//! ```text
//! request ──▶ head ── frame ── frame ── frame with the counts ── end
//!             │ UsageReport, empty                               │ filled in
//! ```
//!
//! Put this layer near the backend, inside of all layers that use the counts: a token limit, a fair
//! queue, the record of the request ([`Outcome`](crate::Outcome)), metrics. tower and tower-http
//! have no such layer.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::header::CONTENT_TYPE;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::usage::{UsageLayer, UsageReport};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! const ANSWER: &str = r#"{"response":"Hi.","done":true,"prompt_eval_count":26,"eval_count":3}"#;
//! let service = UsageLayer::new().layer(service_fn(async |_: Request<()>| {
//!     let answer = Response::builder().header(CONTENT_TYPE, "application/json");
//!     Ok::<_, Infallible>(answer.body(Full::new(bytes::Bytes::from(ANSWER))).expect("valid"))
//! }));
//! let answer = service.oneshot(Request::default()).await.expect("infallible");
//! let report = answer.extensions().get::<UsageReport>().expect("one for each answer").clone();
//! assert!(report.get().is_none(), "the answer is in progress");
//! answer.into_body().collect().await.expect("a whole body");
//! let usage = report.get().and_then(|measured| measured.usage).expect("the answer contains it");
//! assert_eq!((usage.prompt_tokens, usage.output_tokens), (26, 3));
//! # }
//! ```
//!
//! Ollama also sends the duration of each phase, which gives the speed of a server:
//!
//! ```
//! use llamatower_layers::usage::Usage;
//!
//! let last_line = br#"{"done":true,"load_duration":30000000,"eval_count":6,"eval_duration":60000000}"#;
//! let usage = Usage::find_last(last_line).expect("it is there");
//! let timings = usage.timings.expect("Ollama's own dialect contains them");
//! assert_eq!(usage.output_tokens as f64 / timings.output.as_secs_f64(), 100.0);
//! ```

mod body;
mod future;
mod layer;
mod object;
mod parse;
mod report;
mod tail;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use body::UsageBody;
pub use future::UsageFuture;
pub use layer::{UsageLayer, UsageService};
#[cfg(feature = "token-limit")]
pub(crate) use report::ReportPlace;
pub use report::{Measured, UsageReport};

/// The assumed length of a token in text, in bytes.
const BYTES_PER_TOKEN: u64 = 4;
/// The largest estimate of a prompt, in tokens.
const MAX_ESTIMATE: u64 = 4096;

/// The expected tokens of a prompt whose request has a body of this many bytes, if nothing else is known
/// of it: a quarter of them, at most 4096. This fits text; images use fewer tokens than their bytes
/// suggest. For a body that was scanned, see [`expected_text_tokens`].
pub fn expected_prompt_tokens(body_bytes: u64) -> u64 {
    expected_text_tokens(body_bytes).min(MAX_ESTIMATE)
}

/// The expected tokens of a text of this many bytes: a quarter of them. With the features `llm-request`
/// and `usage`, `LlmRequest::prompt_bytes` is such a length.
pub fn expected_text_tokens(bytes: u64) -> u64 {
    bytes / BYTES_PER_TOKEN
}

/// The token counts of one response, from the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Prompt tokens. Ollama omits the count if the whole prompt is in its cache.
    pub prompt_tokens: u64,
    /// Output tokens; 0 for embeddings.
    pub output_tokens: u64,
    /// Those of the prompt tokens that the backend took from a cache of its own; `None` if it does
    /// not tell. OpenAI's dialects have this count (`cached_tokens`).
    pub cached_prompt_tokens: Option<u64>,
    /// Those of the output tokens that are the model's reasoning; `None` if the backend does not
    /// tell. OpenAI's dialects have this count (`reasoning_tokens`).
    pub reasoning_tokens: Option<u64>,
    /// The durations of the phases; only Ollama's own dialect contains them.
    pub timings: Option<Timings>,
}

/// The durations of the phases of a response, by the backend's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Model load (`load_duration`); a few milliseconds if the model is loaded already.
    pub load: Duration,
    /// Prompt processing (`prompt_eval_duration`).
    pub prompt: Duration,
    /// Output generation (`eval_duration`).
    pub output: Duration,
    /// The total, waiting time included (`total_duration`).
    pub total: Duration,
}

impl Usage {
    /// Prompt and output tokens together.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.output_tokens)
    }
}
