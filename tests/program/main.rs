//! The program as its operators see it: how it starts, how it refuses to, how it leaves, and
//! what its metrics say when a client misbehaves.

#![allow(clippy::unwrap_used)]

mod cache;
mod discovery;
mod ends;
mod front;
mod harness;
mod queue;
mod starts;
mod tokens;
