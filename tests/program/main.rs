//! The program as operators see it: start, start errors, shutdown, and metrics for misbehaving
//! clients.

#![allow(clippy::unwrap_used)]

mod cache;
mod discovery;
mod ends;
mod harness;
mod limits;
mod queue;
mod reload;
mod starts;
mod tokens;
