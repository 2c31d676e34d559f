//! What was found, for those outside.

use std::sync::{Arc, OnceLock};

use super::Usage;

/// What was measured of an answer; an extension of the response, filled in when its body ends or
/// is dropped, before whatever wraps that body learns of it.
#[derive(Clone, Debug, Default)]
pub struct UsageReport(Arc<OnceLock<Measured>>);

/// What an answer came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// What the backend counted; `None` if the answer ended before it said so.
    pub usage: Option<Usage>,
    /// How many lines or events of a stream passed. One has a token, mostly. None for an answer
    /// that is one object.
    pub items: u64,
}

impl UsageReport {
    /// What was measured; `None` as long as the answer is under way.
    pub fn get(&self) -> Option<&Measured> {
        self.0.get()
    }

    pub(super) fn fill(&self, measured: Measured) {
        // Whoever comes second comes too late, which only the one body of an answer could.
        let _ = self.0.set(measured);
    }
}
