//! How many tokens an answer was worth, by the backend's own count.
//!
//! Every dialect says it at the very end: Ollama in the line with `done:true`, OpenAI in the
//! chunk before `[DONE]`, Anthropic in `message_delta`, and each in the last members of an answer
//! that is one object. [`UsageLayer`] keeps a copy of the last kilobyte that passes, reads the
//! counts there once, when the answer ends, and tells whoever holds the answer's [`UsageReport`]: it is
//! in the request's [`Record`](crate::Record), or else among the answer's extensions.
//! The frames themselves go on as they came.
//!
//! ```text
//! request ──▶ head ── frame ── frame ── frame with the counts ── end
//!             │ UsageReport, empty                               │ filled in
//! ```
//!
//! It belongs near the backend, inside of everything that wants to know: a limit of tokens, a fair
//! queue, the record of the request ([`Outcome`](crate::Outcome)), metrics. Neither tower nor
//! tower-http has anything like it.
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
//! assert!(report.get().is_none(), "the answer is under way");
//! answer.into_body().collect().await.expect("a whole body");
//! let usage = report.get().and_then(|measured| measured.usage).expect("the answer tells it");
//! assert_eq!((usage.prompt_tokens, usage.output_tokens), (26, 3));
//! # }
//! ```
//!
//! Ollama tells how long it took for each part, too, which is how fast a server is:
//!
//! ```
//! use llamatower_layers::usage::Usage;
//!
//! let last_line = br#"{"done":true,"load_duration":30000000,"eval_count":6,"eval_duration":60000000}"#;
//! let usage = Usage::find_last(last_line).expect("it is there");
//! let timings = usage.timings.expect("Ollama's own dialect tells them");
//! assert_eq!(usage.output_tokens as f64 / timings.output.as_secs_f64(), 100.0);
//! ```

mod body;
mod future;
mod layer;
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
pub(crate) use report::Told;
pub use report::{Measured, UsageReport};

/// What a backend counted for one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt. Ollama leaves it out where it has the whole prompt in its cache.
    pub prompt_tokens: u64,
    /// Tokens of the answer; none for embeddings.
    pub output_tokens: u64,
    /// How long the parts took; only Ollama's own dialect tells it.
    pub timings: Option<Timings>,
}

/// How long the parts of an answer took by the backend's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Loading the model (`load_duration`); some milliseconds where it was loaded already.
    pub load: Duration,
    /// Reading the prompt (`prompt_eval_duration`).
    pub prompt: Duration,
    /// Writing the answer (`eval_duration`).
    pub output: Duration,
    /// All of it, waiting included (`total_duration`).
    pub total: Duration,
}

impl Usage {
    /// Prompt and output together.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.output_tokens)
    }
}
