//! The reasons of a choice, for the log and the spans.

use std::fmt;
use std::sync::Arc;

use llamatower_layers::Outcome;

use super::Fleet;
use super::backend::Backend;
use super::flight::Flight;
use super::policy::{Candidate, DecisionId, Grant, Terms};

/// The latest choice for a request, in its [`Outcome`]. It is absent if there was no choice by cost.
#[derive(Clone, Copy, Debug)]
pub struct LatestChoice {
    /// The terms of the cost of the chosen server.
    pub terms: Terms,
    /// The number of the choice.
    pub decision: DecisionId,
}

impl LatestChoice {
    pub(super) fn new(grant: &Grant) -> Self {
        Self {
            terms: grant.terms,
            decision: grant.decision,
        }
    }

    /// The choice for a request.
    pub fn of(outcome: &Outcome) -> Option<&Self> {
        outcome.choice.as_ref()?.downcast_ref()
    }

    pub(super) fn put_into(self, outcome: &mut Outcome) {
        outcome.choice = Some(Arc::new(self));
    }
}

impl<S> Fleet<S> {
    /// Logs why this server was chosen. Nothing is looked up or formatted unless the line is
    /// written.
    pub(super) fn log_choice(&self, backend: &Backend, flight: &Flight) {
        let grant = flight.grant();
        tracing::debug!(
            backend = %backend.name(),
            model = %flight.model(),
            load = grant.terms.load,
            wait = grant.terms.wait,
            work = grant.terms.work,
            affinity = grant.terms.affinity,
            candidates = %Candidates(self.router.change(|policy| {
                let decision = policy.decision(grant.decision);
                decision.map(|decision| decision.candidates).unwrap_or_default()
            })),
            "a backend was chosen"
        );
    }
}

/// The servers that were compared, as text.
struct Candidates(Vec<Candidate>);

impl fmt::Display for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, row) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}{} is {}",
                row.server,
                row.availability.name()
            )?;
            let Some(terms) = row.terms else { continue };
            f.write_str(if row.is_open { ", open" } else { ", busy" })?;
            f.write_str(if row.loads { ", loads" } else { "" })?;
            write!(
                f,
                ": load {:.3} + wait {:.3} + work {:.3} {:+.3} = {:.3} s",
                terms.load,
                terms.wait,
                terms.work,
                terms.affinity,
                terms.total()
            )?;
        }
        Ok(())
    }
}
