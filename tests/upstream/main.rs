//! The upstream leaves against scripted servers on real sockets.

mod address;
mod both;
mod cuts;
mod hygiene;
mod plain;
mod support;
mod tls;
