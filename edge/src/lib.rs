//! Wrappers for the socket and the body of a [hyper] 1 server, for streamed responses: answers of
//! language models, events, logs, proxied downloads.
//!
//! A tower layer sees requests and bodies, but not their socket. Three things go wrong there, on
//! every hyper 1 server, axum's included:
//!
//! | What goes wrong | Why | With this crate |
//! |---|---|---|
//! | a stream fails, and the client does not get the lines before the error, or not even the head | hyper flushes nothing after a body's error: what it has buffered is dropped | the error is held back until the socket has flushed everything before it, also for a client that reads slowly |
//! | a client stops reading, and its request holds the backend, its permits and its memory without limit | hyper does not poll a body while earlier bytes cannot be written, so a time-out in a body never fires | a write that makes no progress for a set time fails; the body is dropped |
//! | a client goes away, and the backend goes on answering | behind one byte of a pipelined next request hyper does not read, and so does not see the end | the socket reads ahead, up to 64 KiB; the handler and its body are dropped at once |
//!
//! It has two halves: [`ClientSocket`] below hyper, and [`ConnectionLayer`] (or [`ConnectionBody`]
//! by hand) above it. The server between them can be hyper's `http1`, hyper-util's `auto` or
//! `axum::serve`.
//!
//! # With hyper
//!
//! ```no_run
//! # use std::{convert::Infallible, io, time::Duration};
//! # use http::{Request, Response};
//! # use hyper_util::{rt::TokioIo, service::TowerToHyperService};
//! use hyper::server::conn::http1;
//! use llamatower_edge::{ClientSocket, ConnectionLayer};
//! use tower::{Layer, service_fn};
//!
//! # async fn handler(_: Request<hyper::body::Incoming>) -> Result<Response<String>, Infallible> {
//! #     Ok(Response::new("a stream".to_owned()))
//! # }
//! # async fn example(listener: tokio::net::TcpListener) -> io::Result<()> {
//! loop {
//!     let (stream, _) = listener.accept().await?;
//!     let socket = ClientSocket::new(stream, Duration::from_secs(60));
//!     let service = ConnectionLayer::new(socket.state()).layer(service_fn(handler));
//!     let service = TowerToHyperService::new(service);
//!     tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
//! }
//! # }
//! ```
//!
//! # With `axum::serve`
//!
//! With the feature `axum`; see [`axum`].
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # mod example {
//! # use std::{io, time::Duration};
//! use axum::{Router, routing::get};
//! use llamatower_edge::axum::{ClientListener, MakeConnectionService};
//!
//! # async fn example(listener: tokio::net::TcpListener) -> io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "a stream" }));
//! let listener = ClientListener::new(listener, Duration::from_secs(60));
//! axum::serve(listener, MakeConnectionService::new(app)).await
//! # }
//! # }
//! ```
//!
//! # What to know
//!
//! - **The layer is per connection** and outermost: a body that is wrapped again by one that
//!   buffers, or is sent to another task, does not know what hyper was given.
//! - **HTTP/2.** The socket's time-out works. The layer passes requests in HTTP/2 on unchanged,
//!   because a flush of the socket says nothing about one stream.
//! - **Upgrades** and tunnels (`101`, `CONNECT`): the socket passes their bytes on and reads nothing
//!   ahead. The time-out of writes stays.
//! - **Not with** hyper's `half_close(true)`, which makes the end of a client's stream no
//!   disconnect, or `pipeline_flush(true)`, which puts flushes off: then an error is held for the
//!   whole time-out.
//! - **TLS.** Put the socket below TLS: `acceptor.accept(ClientSocket::new(..))`. Clone its state
//!   before.
//! - **Cost.** One allocation for a connection, none for a request or a frame; no timer is touched
//!   while writes succeed. With axum a request costs two more: the client's address, and the box
//!   of axum's body.
//!
//! [hyper]: https://docs.rs/hyper

// docs.rs sets `docsrs`, so that each item shows the feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub mod axum;
mod body;
mod layer;
mod socket;
mod state;

pub use body::ConnectionBody;
pub use layer::{ConnectionFuture, ConnectionLayer, ConnectionService};
pub use socket::{ClientSocket, WriteStalled};
pub use state::SocketState;
