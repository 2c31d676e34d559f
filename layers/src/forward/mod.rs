//! Sends a client's requests on to one server.
//!
//! The innermost layer of a proxy, directly around the HTTP client. It sets the scheme and authority
//! of the request's URI and its `Host`, puts the path of the server's address in front, and removes
//! the hop-by-hop headers of the request and the response (RFC 9110 7.6.1).
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use llamatower_layers::BoxError;
//! use llamatower_layers::forward::ForwardLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let proxy = ServiceBuilder::new()
//!     .layer(ForwardLayer::new("http://gpu-1:11434/ollama".parse()?)?)
//!     // In place of this, hyper-util's `Client` or `ReqwestService`.
//!     .service(service_fn(async |request: Request<()>| {
//!         assert_eq!(request.uri(), "http://gpu-1:11434/ollama/api/chat?debug");
//!         assert_eq!(request.headers()["host"], "gpu-1:11434");
//!         assert!(!request.headers().contains_key("connection"));
//!         Ok::<_, BoxError>(Response::new(Empty::<&[u8]>::new()))
//!     }));
//! let request = Request::post("/api/chat?debug")
//!     .header("host", "public.example")
//!     .header("connection", "keep-alive");
//! proxy.oneshot(request.body(())?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! All other headers pass, also `Authorization`, `Cookie` and `X-Forwarded-For`: remove outside of it
//! what the server must not see. It forwards no upgrades, such as WebSocket, and no tunnels.
//!
//! The path goes on as the client wrote it, but a path that the server would resolve to another one
//! (`..`, also encoded, or a backslash) is refused with 400. A path that is not in the
//! [`EndpointTable`](crate::EndpointTable) may still be one of the server's, in another spelling: where
//! layers outside decide by the route, refuse such paths with
//! [`RequireEndpointLayer`](crate::endpoint::RequireEndpointLayer).

mod address;
mod error;
mod future;
mod headers;
mod layer;
#[cfg(test)]
mod tests;

pub use error::{InvalidServerAddress, NotForwarded, UriTooLong};
pub use future::ForwardFuture;
pub use headers::{is_hop_by_hop, remove_hop_by_hop};
pub use layer::{ForwardLayer, ForwardService};
