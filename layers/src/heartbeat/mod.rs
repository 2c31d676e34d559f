//! Heartbeats before the first byte of an event stream.
//!
//! A server that loads a model or reads a long prompt sends nothing, and neither does a queue.
//! Proxies and clients with an idle time-out (a browser's `fetch` after five minutes, a load
//! balancer after one) then abort a healthy request. If the inner service is silent for a while,
//! this layer sends the head of an event stream and, repeatedly, a comment, which clients skip.
//!
//! ```text
//! call ───────── every ─────────── every ──────── response ─ event ── event ── end
//!   └ inner ────────────────────────────────────────┘
//! client          head, `: ..`      `: ..`                    event    event    end
//! ```
//!
//! - If the service responds or fails before the first heartbeat, the result passes unchanged.
//! - A later failure cannot change the status. The body fails with the error, and an outer
//!   [`RescueLayer`](crate::rescue::RescueLayer) turns it into an error event. A response that is
//!   not an event stream with status 200 is read, and its error is sent in the same way
//!   ([`RefusedLate`]). The header fields of a late response are lost.
//! - While a request waits in a queue, the comment has its place and the expected wait, if the
//!   queue sets them in the request's [`Waiting`].
//!
//! Heartbeats are sent only for event streams. Clients of newline-delimited streams fail on an
//! empty line, and no other line would be skipped.
//!
//! Place it inside of [`LlmRequestLayer`](crate::llm_request::LlmRequestLayer), which knows whether
//! a stream is requested, and outside of all layers that wait or retry, which continue below it.
//! Outer layers that read the response's head, like a cache or a token limit, see the head of the
//! heartbeat.
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
//! let heartbeat = ": waiting for the response\n\n";
//! assert_eq!(text, format!("{heartbeat}{heartbeat}data: {{}}\n\n"));
//! # Ok(())
//! # }
//! ```
//!
//! A request can have its own interval: [`HeartbeatInterval`] in its extensions.
//!
//! If it is off, it costs a look-up of that extension for each request, and one branch for each frame:
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
pub use layer::{HeartbeatInterval, HeartbeatLayer};
pub use service::HeartbeatService;
pub use waiting::Waiting;
