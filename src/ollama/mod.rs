//! The core service: a fleet of Ollama servers.

pub mod upstream;
