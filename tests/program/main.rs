//! The program as its operators see it: how it starts, how it refuses to, how it leaves, and
//! what its metrics say when a client misbehaves.

#![allow(clippy::unwrap_used)]

mod cache;
mod commands;
mod discovery;
mod doctor;
mod ends;
mod harness;
mod queue;
mod starts;
mod tokens;
