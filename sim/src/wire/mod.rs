//! The wire formats: JSON like Go's, answers, and their bodies.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod json;
pub(crate) mod read;

pub(crate) use answer::{Dialect, Problem};
pub(crate) use body::SimBody;
