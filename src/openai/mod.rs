//! OpenAI-compatible servers as backends: vLLM, llama.cpp's server, LM Studio, another gateway.
//!
//! The gateway's own dialect is Ollama's. [`Translate`] stands in front of the client of one server,
//! so that everything else, from the probes to the answers of clients, sees an Ollama server:
//!
//! ```text
//! /v1/..                ───────────────── unaltered ─────────────▶ {base}/..
//! /api/chat, /generate  ─ request in, request out ───────────────▶ {base}/chat/completions
//!                       ◀─ NDJSON lines ─ Transcoder ─ SSE events ─
//! /api/embed            ─────────────────────────────────────────▶ {base}/embeddings
//! /api/tags, ps, show   ─────────────────────────────────────────▶ {base}/models
//! management            refused with 501, never sent
//! ```
//!
//! The translation itself is pure code. [`ask`] makes a request of a request, [`Transcoder`] takes
//! the bytes of a stream and gives lines, [`whole`] translates the other answers. Texts that need no
//! change are copied as they are in the JSON, and are not decoded.
//!
//! The crates with types for this dialect (such as async-openai) own every text of a chunk, and drop
//! the fields that only some servers send (`reasoning`, `reasoning_content`, `timings`, `x_groq`). A
//! chunk is read for each token, so the few fields that are needed are read here with borrowed
//! texts.

pub mod ask;
mod body;
pub mod chunk;
pub mod error;
pub mod gauges;
pub mod line;
pub mod lines;
mod messages;
pub mod models;
mod options;
pub mod server;
mod service;
mod tools;
pub mod transcoder;
pub mod whole;

pub use ask::{Ask, Asked};
pub use lines::TranslatedBody;
pub use server::Server;
pub use service::{Translate, TranslateFuture};
pub use transcoder::Transcoder;
