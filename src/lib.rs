//! llamatower: an LLM gateway in front of Ollama, as a stack of Tower layers.

pub mod activity;
pub mod admin;
pub mod clients;
pub mod cloud;
pub mod commands;
pub mod edge;
pub mod gateway;
pub mod live;
pub mod model_sync;
pub mod ollama;
pub mod openai;
pub mod reload;
pub mod reuse;
pub mod settings;
pub mod shared;
pub mod signals;
pub mod stack;
pub mod state;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod usage;
pub mod version;
