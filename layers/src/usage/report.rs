//! The report of a response's usage.

use std::sync::{Arc, OnceLock};

use http::Extensions;

use super::Usage;

/// The usage of a response. It is filled when the response's body ends or is dropped, before outer
/// bodies see the end. It is in the request's [`Record`](crate::Record); for a request without a
/// record it is an extension of the response.
#[derive(Clone, Debug, Default)]
pub struct UsageReport(Arc<OnceLock<Measured>>);

/// The measured usage of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// The token counts; `None` if the backend sent none: the response ended before, or has none, such as
    /// that of a request without a prompt or an OpenAI stream without `stream_options.include_usage`.
    pub usage: Option<Usage>,
    /// The number of lines or events that passed. Most of them contain one token. Of a response that is
    /// one object without counts, a quarter of its bytes; 0 if it has counts, or no text of a model: of
    /// embeddings, and of a request without a prompt.
    pub items: u64,
}

impl UsageReport {
    /// The measured usage; `None` while the response is in progress.
    pub fn get(&self) -> Option<&Measured> {
        self.0.get()
    }

    pub(super) fn fill(&self, measured: Measured) {
        // A second value is ignored; only the one body of a response could set it.
        let _ = self.0.set(measured);
    }
}

/// The place for a response's report.
#[derive(Debug)]
pub(crate) struct ReportPlace {
    // In the record if possible: an extension of a response costs three allocations.
    #[cfg(feature = "outcome")]
    record: Option<crate::Record>,
}

impl ReportPlace {
    /// The place for the report of the request with these extensions.
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

    /// The attempts that no backend has answered, so far
    /// ([`Outcome::unanswered`](crate::Outcome::unanswered)).
    #[cfg(feature = "token-limit")]
    pub(crate) fn unanswered(&self) -> u32 {
        #[cfg(feature = "outcome")]
        if let Some(record) = &self.record {
            return record.update(|outcome| outcome.unanswered);
        }
        0
    }

    /// The report that was put there.
    #[cfg(feature = "token-limit")]
    pub(crate) fn report(&self, answer: &Extensions) -> Option<UsageReport> {
        #[cfg(feature = "outcome")]
        if let Some(record) = &self.record {
            return record.usage_report();
        }
        answer.get().cloned()
    }
}
