//! The program as operators see it: start, start errors, shutdown, and metrics for misbehaving
//! clients.

#![allow(clippy::unwrap_used)]

mod affinity;
mod alias_choices;
mod aliases;
mod cache;
mod catalogue;
mod cloud;
mod commands;
mod connect;
mod context;
mod cordon;
mod decisions;
mod delegation;
mod discovery;
mod doctor;
mod doctor_cloud;
mod down;
mod ends;
mod front;
mod harness;
mod keys_file;
mod limits;
mod loads;
mod manage;
mod manage_some;
mod metrics;
mod models_sync;
mod networks;
mod openai;
mod operator_loads;
mod outliers;
mod proxy_protocol;
mod queue;
mod reload;
mod replicas;
mod reported_load;
mod secrecy;
mod simulate;
mod starts;
mod status_page;
mod tls;
mod tokens;
mod usage;
mod watch;
