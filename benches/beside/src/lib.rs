//! The table and the statistics of the bench `beside`, and its calls of valgrind.
//!
//! The bench itself is in `bench/`, because everything that it compares is a dev-dependency.

mod table;
mod valgrind;

pub use table::{Costs, Row, median, print};
pub use valgrind::{instructions, is_installed, phase};
