//! Signs of life before the first byte of an event stream.
//!
//! A server that loads a model or reads a long prompt sends nothing, and neither does a queue. Proxies
//! and clients that give up on silence (a browser's `fetch` after five minutes, a load balancer after one)
//! then end a request that is well. This layer answers in the place of a service that has been silent
//! for a while: with the head of an event stream and, again and again, a comment, which clients skip.
//!
//! ```text
//! call ───────── every ─────────── every ──────── answer ─── event ── event ── end
//!   └ inner ────────────────────────────────────────┘
//! client          head, `: ..`      `: ..`                    event    event    end
//! ```
//!
//! - A service that answers, or fails, before the first sign passes through untouched.
//! - What fails later has no status any more. The body fails with the error, and
//!   [`RescueLayer`](crate::rescue::RescueLayer) outside makes an error event of it; an answer that is no
//!   event stream of status 200 is read, and its error is told so too ([`RefusedLate`]). The header
//!   fields of the late answer are lost.
//! - While a request waits in a queue the comment says how many are before it and how long it will
//!   take, if whoever lets it wait tells that to the request's [`Waiting`].
//!
//! It has signs only for requests whose answers are event streams. Clients of streams of lines fail on
//! an empty line, and there is no other that they would skip.
//!
//! It belongs inside of [`LlmRequestLayer`](crate::llm_request::LlmRequestLayer), which knows whether a
//! stream is asked for, and outside of all that waits or asks again, which goes on beneath it. What
//! looks at the head of the answer outside of here, a cache or a token limit, sees that of the sign.
//!
//! ```
//! use std::time::Duration;
//!
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::BoxError;
//! use llamatower_layers::heartbeat::HeartbeatLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let slow = service_fn(async |_: Request<()>| {
//!     tokio::time::sleep(Duration::from_secs(50)).await;
//!     let answer = Response::builder().header("content-type", "text/event-stream");
//!     Ok::<_, BoxError>(answer.body(Full::<bytes::Bytes>::from("data: {}\n\n"))?)
//! });
//! let layer = HeartbeatLayer::new(Duration::from_secs(20)).with_requests(|_| true);
//! let answer = layer.layer(slow).oneshot(Request::new(())).await?;
//! let text = answer.into_body().collect().await?.to_bytes();
//! let sign = ": waiting for the answer\n\n";
//! assert_eq!(text, format!("{sign}{sign}data: {{}}\n\n"));
//! # Ok(())
//! # }
//! ```
//!
//! Off, it costs a branch for each request and each frame:
//!
//! ```
//! # use llamatower_layers::heartbeat::HeartbeatLayer;
//! let layer = HeartbeatLayer::new(None);
//! ```

mod body;
mod error;
mod future;
mod layer;
mod service;
#[cfg(test)]
mod tests;
mod waiting;

pub use body::HeartbeatBody;
pub use error::RefusedLate;
pub use future::HeartbeatFuture;
pub use layer::HeartbeatLayer;
pub use service::HeartbeatService;
pub use waiting::Waiting;
