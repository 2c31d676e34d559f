//! Recorded exchanges with real servers: loaded, sent again, and compared.
//!
//! A recording is a JSON file: the request as it was sent, and the answer's status, headers and
//! HTTP chunks. [`RecordedRequest::send`] sends it again, byte for byte as the recorder did, and
//! [`compare`] tells in what two answers differ, but for what no two answers have in common:
//! dates, ids, durations, digests, generated words and how many of them there are.
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
