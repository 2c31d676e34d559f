//! Compares a client's view of the gateway with Ollama. If the gateway differs on purpose, the
//! test's name says so.

#![allow(clippy::unwrap_used, missing_docs)]

mod basics;
mod edges;
mod failures;
mod heartbeat;
mod streams;
mod support;
