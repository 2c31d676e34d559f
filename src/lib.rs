//! llamatower: an LLM gateway in front of Ollama, as a stack of Tower layers.

pub mod edge;
pub mod ollama;
pub mod settings;
pub mod telemetry;
