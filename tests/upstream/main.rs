//! The upstream clients against scripted servers on real sockets.

mod address;
mod both;
mod cuts;
mod hygiene;
mod management;
mod plain;
mod support;
mod tls;
