//! A simulated Ollama server that needs no GPU, with faults on demand.
//!
//! Its answers are equal to those of a real server, byte for byte except for volatile values (its
//! tests replay recordings of real servers). It follows the rules of Ollama's scheduler: serial
//! loads, a queue only for loads, reloads for another context length. It sends tokens at a pace, in
//! thousands of streams, and produces faults on request.
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
//! The binary has the same options as arguments, and the routes `POST /sim/faults`, `GET
//! /sim/requests` and `GET /sim/state`.

mod api;
mod clock;
pub mod comparison;
mod duration;
mod engine;
mod fault;
mod log;
mod model;
mod name;
mod prefix;
pub mod recording;
mod scheduler;
mod server;
mod sim;
mod wire;

pub use clock::{PreciseSleep, sleep_until_precisely};
pub use fault::{Cut, Ending, Fault, FaultKind};
pub use log::{Outcome, SeenRequest, SimState};
pub use model::{InvalidModel, ModelSpec};
pub use sim::{Sim, SimBuilder, SimHandle};
