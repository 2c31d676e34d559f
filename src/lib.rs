//! llamatower: an LLM gateway in front of Ollama, as a stack of Tower layers.

pub mod activity;
pub mod admin;
pub mod check;
pub mod cli;
pub mod client;
pub mod cloud;
pub mod demo;
pub mod doctor;
pub mod edge;
pub mod gateway;
pub mod healthcheck;
pub mod live;
pub mod manage;
pub mod model_rules;
pub mod model_sync;
pub mod ollama;
pub mod openai;
pub mod reload;
pub mod run;
pub mod settings;
pub mod signals;
mod simulate;
pub mod stack;
pub mod status;
pub mod telemetry;
pub mod top;
pub mod version;
