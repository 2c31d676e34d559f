//! What a client of the gateway sees, held to what it would see of Ollama; where the gateway
//! departs on purpose, the test's name says so.

#![allow(clippy::unwrap_used, missing_docs)]

mod basics;
mod edges;
mod failures;
mod heartbeat;
mod streams;
mod support;
