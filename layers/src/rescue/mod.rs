//! Errors become answers, broken streams get their error frame.
//!
//! Outside of this layer nothing fails: what an inner service returns as an error is answered in
//! the [`Dialect`](crate::Dialect) of the route, with the status and headers of its
//! [`Failure`](crate::Failure), so that a client's library raises its own exception. An answer
//! that streams is watched to its end: one that breaks off, or ends without the item that every
//! whole stream ends with, gets a last line or event that says so. Ollama itself ends a `/v1`
//! stream silently when its engine dies, which no client can tell from success.
//!
//! ```text
//!               head   line  line        ✗ backend gone
//! backend  ------|------|-----|----- ... |
//! client   ------|------|-----|----- ... | {"error":".."}   ✗     between two lines
//! client   ------|------|-----|----- .. ha| {"error":".."}  ✗     inside of one
//!          error |
//! client   ------| 502 {"error":".."}                             before the head
//! ```
//!
//! After the frame and half a second the body fails with a [`BrokenStream`], so that the connection
//! ends unclean (✗): some clients skip the frame and take a clean end for that of a whole answer.
//! [`RescueLayer::with_clean_ends`] leaves that out, and so does a stream of Responses, whose
//! `response.failed` is an end that its clients know. The pause needs tokio's timer.
//!
//! A frame can stand only where an item could. Half a line is ended first; on half an event, or in an
//! answer of a declared length, the body fails without a frame. An error line or event of the
//! backend's own passes as it is, is not followed by another, and its end is as clean as it was.
//!
//! An error status without a body gets one that says so: there are clients that take an empty 503 for
//! an answer that had nothing to say.
//!
//! It belongs inside of whatever must see the final status (spans, the outcome, CORS) and
//! outside of everything that can fail.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Method, Request, Response, StatusCode};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::endpoint::{EndpointLayer, EndpointTable};
//! use llamatower_layers::rescue::RescueLayer;
//! use llamatower_layers::{BoxError, RouteMatch};
//! use tower::{ServiceBuilder, ServiceExt, filter::FilterLayer, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Infallible> {
//! let service = ServiceBuilder::new()
//!     .layer(EndpointLayer::new(EndpointTable::ollama()))
//!     .layer(RescueLayer::new())
//!     .layer(FilterLayer::new(RouteMatch::require))
//!     .service(service_fn(async |_| {
//!         Err::<Response<Full<Bytes>>, _>(BoxError::from("the secrets of the implementation"))
//!     }));
//!
//! let request = Request::post("/api/chat").body(()).expect("a request");
//! let answer = service.clone().oneshot(request).await?;
//! assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
//! let text = answer.into_body().collect().await.expect("a body").to_bytes();
//! assert!(text.starts_with(b"{\"error\":\"internal error"));
//!
//! let request = Request::get("/api/chat").body(()).expect("a request");
//! let answer = service.oneshot(request).await?;
//! assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
//! assert_eq!(answer.headers()["allow"], "POST");
//! # Ok(())
//! # }
//! ```
//!
//! A server that must go down while streams are under way ends them by a cutoff; errors that
//! say nothing of themselves go to a hook:
//!
//! ```
//! use llamatower_layers::rescue::RescueLayer;
//! use tokio_util::sync::CancellationToken;
//!
//! let cutoff = CancellationToken::new();
//! let layer = RescueLayer::new()
//!     .with_cutoff(cutoff.clone())
//!     .with_hook(|error| eprintln!("told to the client: {error}"));
//! // When the time for draining is up:
//! cutoff.cancel();
//! # let _ = layer;
//! ```

mod body;
mod error;
mod future;
mod layer;
mod report;
mod service;
#[cfg(test)]
mod tests;

pub use body::RescueBody;
pub use error::{AnswerUnfinished, BrokenStream, ShuttingDown};
pub use future::RescueFuture;
pub use layer::RescueLayer;
pub use service::RescueService;
