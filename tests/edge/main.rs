//! The edge as its clients see it: real sockets, real bytes.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod answers;
mod bind;
mod bodies;
mod broken;
mod certificates;
mod clocks;
mod drain;
mod http2;
mod http2_client;
mod http2_limits;
mod limits;
mod messages;
mod origins;
mod proxies;
mod proxy_protocol;
mod redirects;
mod refusals;
mod rules;
mod strict;
mod support;
mod tls;
mod tls_changes;
