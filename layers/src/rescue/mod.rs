//! Turns errors into responses, and adds an error frame to broken streams.
//!
//! No error leaves this layer. An error of the inner service becomes a response in the
//! [`Dialect`](crate::Dialect) of the route, with the status and headers of its
//! [`Failure`](crate::Failure), so that a client's library raises its own exception. A known error of
//! another crate, such as a refused connection, gets a meaning by [`classify`](crate::classify); any
//! other error is `500 internal error`, without details. A streamed response is watched to its end: if it breaks, or ends without the item that ends every complete
//! stream, a last line or event reports the error. Ollama itself ends a `/v1` stream silently when
//! its engine dies, which no client can distinguish from success.
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
//! Half a second after the frame, the body fails with a [`BrokenStream`], so that the connection
//! ends uncleanly (✗): some clients skip the frame and treat a clean end as the end of a complete
//! response. [`RescueLayer::with_clean_ends`] disables this. A stream of Responses always ends
//! cleanly, because its clients know `response.failed`. The pause needs tokio's timer.
//!
//! A frame is possible only between items. An incomplete line is ended first. On an incomplete
//! event, or in a response with a declared length, the body fails without a frame. The backend's
//! own error line or event passes unchanged, without another one, and its end stays clean.
//!
//! An error status without a body gets an error text, because some clients treat an empty 503 as an
//! empty response.
//!
//! Place it inside of everything that must see the final status (spans, the outcome, CORS), and
//! outside of everything that can fail. In axum it is the outermost of such layers: a router accepts
//! only services that cannot fail, and this layer's `Error` is `Infallible`.
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
//! A server that must stop while streams are in flight ends them by a cutoff. Each error goes to a
//! hook, with the details that clients do not get:
//!
//! ```
//! use llamatower_layers::rescue::RescueLayer;
//! use tokio_util::sync::CancellationToken;
//!
//! let cutoff = CancellationToken::new();
//! let layer = RescueLayer::new()
//!     .with_cutoff(cutoff.clone())
//!     .with_hook(|error| eprintln!("a request failed: {error}"));
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
