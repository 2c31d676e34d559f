//! What was found, for those outside.

use std::sync::{Arc, OnceLock};

use http::Extensions;

use super::Usage;

/// What was measured of an answer, filled in when its body ends or is dropped, before whatever
/// wraps that body learns of it. It is to be had of the request's [`Record`](crate::Record); of a
/// request without one it is an extension of the answer.
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

/// Where an answer's report is put.
#[derive(Debug)]
pub(crate) struct Told {
    // An extension of an answer, which has mostly no other, costs three allocations.
    #[cfg(feature = "outcome")]
    record: Option<crate::Record>,
}

impl Told {
    /// The place for the answer to the request with these extensions.
    pub(crate) fn of(_request: &Extensions) -> Self {
        Self {
            #[cfg(feature = "outcome")]
            record: crate::Record::of(_request).cloned(),
        }
    }

    pub(super) fn note(self, report: UsageReport, answer: &mut Extensions) {
        #[cfg(feature = "outcome")]
        if let Some(record) = self.record {
            record.set_usage_report(report);
            return;
        }
        answer.insert(report);
    }

    /// What was put there.
    #[cfg(feature = "token-limit")]
    pub(crate) fn report(&self, answer: &Extensions) -> Option<UsageReport> {
        #[cfg(feature = "outcome")]
        if let Some(record) = &self.record {
            return record.usage_report();
        }
        answer.get().cloned()
    }
}
