//! The edge: listening sockets, connections and their time-outs, in front of the stack.
//!
//! It accepts connections on TCP and unix sockets and serves HTTP/1.1 on them, over TLS where it is
//! configured ([`EdgeTls`]), and HTTP/2 where a client chooses it. It does what a layer
//! cannot do, because a layer sees requests but not their sockets:
//!
//! ```text
//! accept ── head ────── exchange ─────────────────────── idle ── head ── ...
//!           │ header    │ total timeout (off)            │ keep-alive
//!           │ timeout   │ write stall: a pending write   │ timeout
//!           │           │ body timeout: a silent upload  │
//! ```
//!
//! - **Division of work.** hyper parses, frames, keeps connections alive and flushes. The edge owns
//!   the socket below hyper and the bodies that pass through it; it accepts connections, applies
//!   the rules and drains. A connection is one task: the task polls hyper, hyper polls the stack,
//!   and the stack polls the connection to the backend.
//! - **The crate `llamatower-edge`** has what any hyper server needs: a write that stalls fails, a
//!   disconnect is noticed behind bytes of a later request, and a body's error is held back until
//!   the socket has sent everything before it ([`ClientSocket`], [`ConnectionBody`]).
//! - **Time-outs.** The clock of a stalled write is in the socket, and the other clocks are in the
//!   connection's task. When a clock runs out, the task ends; this drops the body and closes the
//!   connection to the backend.
//! - **Unread bodies.** A response that is sent before its request was read (401, 413, 429) would
//!   be lost by the kernel's reset. The edge therefore reads and discards the rest for a while
//!   ([`RequestBody`]).
//! - **A client that disconnects** cancels its request at once, whether or not a byte of the
//!   response was sent. Limitation: if the client has already sent more than 64 KiB of its next
//!   requests, the edge notices the disconnect only when it writes the response.
//! - **`/health`** is answered by the edge itself, also above the limit of connections: 200 while
//!   serving, 503 while draining.
//! - **Origin and Host** are checked by Ollama's rules, against web pages that call a server on
//!   localhost.
//! - **The client's address** is read from trusted proxies ([`TrustedProxies`]): from their headers, or
//!   from the PROXY protocol, which a listener can require.
//! - **Redirects** lead to the canonical form of a path, as in Ollama.
//! - **Refusals** have an error text in the dialect of the path, and are reported to a
//!   [`RefusalObserver`].
//! - **TLS** is between hyper and the socket, so that the socket's clock sees each write of the kernel.
//!   The handshake has the time of a request's head. Plain HTTP on a port with TLS gets a text.
//! - **HTTP/2** has the same rules. Its streams are polled in the connection's task, each with its own
//!   clock for a window that does not open.
//! - **Drain**, see [`Edge::serve`].
//!
//! [`ClientSocket`]: llamatower_edge::ClientSocket
//! [`ConnectionBody`]: llamatower_edge::ConnectionBody
//!
//! ```no_run
//! # async fn example(stack: impl llamatower::edge::HttpStack) -> Result<(), Box<dyn std::error::Error>>
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
mod address;
mod base_path;
mod begin;
mod bind;
mod client_address;
mod config;
mod connection;
mod forwarded;
mod gauges;
mod host;
mod http2;
mod listener;
mod origin;
mod over_limit;
mod partial_head;
mod proxy_protocol;
mod redirect;
mod refusal;
mod request;
mod request_body;
mod request_line;
mod response_body;
mod seldom;
mod server;
mod service;
mod shutdown;
mod socket;
mod stack;
mod state;
mod tls;
mod transport;
mod trusted_proxies;

pub use address::{InvalidListenAddr, ListenAddr};
pub use base_path::{BasePath, InvalidBasePath};
pub use bind::BindError;
pub use config::{EdgeConfig, EdgeTls};
pub use gauges::Gauges;
pub(crate) use host::machine_name;
pub use host::{Hosts, InvalidHost};
pub use origin::{InvalidOrigin, Origins};
pub use refusal::{Audience, RefusalObserver, Refused};
pub use request_body::{RequestBody, RequestBodyError};
pub use server::{Drained, Edge};
pub use shutdown::Shutdown;
pub use stack::HttpStack;
pub use trusted_proxies::{InvalidProxy, TrustedProxies};
