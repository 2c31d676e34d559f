//! Recorded exchanges with real servers: loads, replays and compares them.
//!
//! A recording is a JSON file: the request, and the answer's status, headers and HTTP chunks.
//! [`RecordedRequest::send`] sends the request again with the same bytes. [`compare`] lists the
//! differences between two answers, except for volatile values: dates, ids, durations, digests,
//! generated words and their number.
//!
//! ```no_run
//! use std::path::Path;
//! use llamatower_sim::recording::{Recording, compare};
//!
//! # async fn doc(address: std::net::SocketAddr) -> std::io::Result<()> {
//! let recording = Recording::load(Path::new("recordings"), "tags_get")?;
//! let answer = recording.request.send(address, &[]).await?;
//! for difference in compare(&recording.answer, &answer) {
//!     println!("{difference}");
//! }
//! # Ok(())
//! # }
//! ```

mod answer;
mod compare;
mod file;
mod json;
mod mask;
mod send;

pub use answer::{Answer, End, Framing};
pub use compare::{Difference, compare};
pub use file::{CASES, KILLED_CASES, RecordedRequest, Recording};
