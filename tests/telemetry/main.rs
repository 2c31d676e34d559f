//! Telemetry as those see it who receive it: a collector, a scraper, a reader of the log.

#![allow(clippy::unwrap_used)]

mod collector;
mod gateway;
mod log;
mod metrics;
mod traces;
mod variables;
