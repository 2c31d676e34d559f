//! A simulated Ollama that costs nothing, with faults on demand.
//!
//! It answers like the real one, byte for byte but for what is volatile (recordings of real
//! servers are replayed in its tests), and keeps the facts of its scheduler: serial loads, a
//! queue for loads alone, reloads for another context length. Tokens come at a pace, streams by
//! the thousand, and whatever can go wrong does so when it is told to.
//!
//! ```
//! use std::time::Duration;
//! use llamatower_sim::{Ending, FaultKind, ModelSpec, Sim};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let model = ModelSpec::new("tiny").with_pace(Duration::from_millis(5));
//! let sim = Sim::builder().model(model).start().await?;
//! sim.arm(FaultKind::die_after(3, Ending::Reset));
//! # Ok(())
//! # }
//! ```
//!
//! The binary takes the same by its arguments, and by `POST /sim/faults`, `GET /sim/requests`
//! and `GET /sim/state`.

mod api;
mod duration;
mod engine;
mod fault;
mod log;
mod model;
mod name;
// pub mod recording;
mod scheduler;
mod server;
mod sim;
mod wire;

pub use fault::{Cut, Ending, Fault, FaultKind};
pub use log::{Outcome, SeenRequest, SimState};
pub use model::{InvalidModel, ModelSpec};
pub use sim::{Sim, SimBuilder, SimHandle};
