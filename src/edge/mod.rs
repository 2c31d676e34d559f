//! Sockets and their clocks: what stands between a client and the stack.
//!
//! An accept loop on TCP and unix sockets, HTTP/1.1 connections, and the duties that no layer can
//! fulfil because a layer sees a request and not its socket:
//!
//! ```text
//! accept ── head ────── exchange ─────────────────────── idle ── head ── ...
//!           │ header    │ total timeout (off)            │ keep-alive
//!           │ timeout   │ write stall: a pending write   │ timeout
//!           │           │ body timeout: a silent upload  │
//! ```
//!
//! - **Where the line is.** hyper parses, frames, keeps alive and flushes. The edge owns the socket below
//!   it, the bodies through it and what lies round it: accepting, rules, drain. A connection
//!   is one task: it polls hyper, hyper the stack, and the stack its backend's connection.
//! - **Clocks.** hyper does not ask a body for more while what it gave cannot be written, so a `Sleep`
//!   inside a body never fires while a client does not read. The clock of a stalled write lives
//!   in the socket, the others in the connection's task; when one runs out the task ends, and
//!   with it the body, and with that the connection to the backend.
//! - **What came before a broken end is delivered.** hyper flushes nothing after an error of a body; the
//!   error waits until the socket says that all has left.
//! - **Unread bodies.** An answer that comes before its request was read (401, 413, 429) would be
//!   destroyed by the kernel's reset: the edge reads on for a while ([`RequestBody`]).
//! - **Clients that go away** drop the request at once, with or without a byte of its answer.
//!   One that has sent 64 KiB of its next requests already hides it: its end shows only when the
//!   answer is written.
//! - **`/health`**, without asking anyone: 200 while serving, 503 while draining.
//! - **Origin and Host**, by Ollama's own rules, against web pages that reach for localhost.
//! - **The client's address**, from trusted proxies ([`TrustedProxies`]).
//! - **Redirects** to a path that is written as it should be, as Ollama does.
//! - **Refusals in words**, in the dialect of the path, and told to a [`RefusalObserver`].
//! - **Drain**, see [`Edge::serve`].
//!
//! ```no_run
//! # async fn example<S, B>(stack: S) -> Result<(), Box<dyn std::error::Error>>
//! # where
//! #     S: tower::Service<http::Request<llamatower::edge::RequestBody>, Response = http::Response<B>,
//! #         Error = std::convert::Infallible> + Clone + Send + 'static,
//! #     S::Future: Send + 'static,
//! #     B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
//! #     B::Error: Into<llamatower_layers::BoxError>,
//! # {
//! use llamatower::edge::{Edge, EdgeConfig, Shutdown};
//!
//! let edge = Edge::bind(EdgeConfig {
//!     listen: vec!["127.0.0.1:3000".parse()?, "unix:/run/llamatower.sock".parse()?],
//!     ..EdgeConfig::default()
//! })
//! .await?;
//! println!("listening on {:?}", edge.local_addrs());
//! let drained = edge.serve(stack, Shutdown::on_signals()?).await;
//! println!("{} requests were completed, {} were cut", drained.completed, drained.cut);
//! # Ok(())
//! # }
//! ```

mod accept;
mod bind;
mod config;
mod connection;
mod forwarded;
mod gauges;
mod host;
mod listener;
mod origin;
mod proxies;
mod redirect;
mod refusal;
mod request;
mod request_body;
mod request_line;
mod response_body;
mod server;
mod service;
mod shutdown;
mod socket;
mod state;

pub use bind::BindError;
pub use config::{BasePath, EdgeConfig, InvalidBasePath, InvalidListenAddr, ListenAddr};
pub use gauges::Gauges;
pub use host::{Hosts, InvalidHost};
pub use origin::{InvalidOrigin, Origins};
pub use proxies::{InvalidProxy, TrustedProxies};
pub use refusal::{RefusalObserver, Refused};
pub use request_body::{RequestBody, RequestBodyError};
pub use server::{Drained, Edge};
pub use shutdown::Shutdown;
