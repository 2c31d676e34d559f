//! A simulated Ollama.
