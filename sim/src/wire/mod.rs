//! What goes over the wire: JSON as Go writes it, answers, and the body that carries them.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod json;

pub(crate) use answer::{Dialect, Problem};
pub(crate) use body::SimBody;
