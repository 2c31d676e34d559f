//! Telemetry as its consumers see it: a collector, a scraper, and the log.

#![allow(clippy::unwrap_used)]

mod choice;
mod collector;
mod gateway;
mod log;
mod metrics;
mod semconv;
mod table;
mod traces;
mod variables;
