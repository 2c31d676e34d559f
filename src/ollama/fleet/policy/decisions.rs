//! The last choices and their reasons.

use std::collections::VecDeque;
use std::sync::Arc;

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::choose::Ask;
use super::cost::{Judgement, Terms};

/// The number of choices that are kept.
const KEPT: usize = 100;
/// The number of servers that are kept for each choice.
const CANDIDATES: usize = 8;

/// One choice.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// When it was made.
    pub(crate) at: Instant,
    pub(crate) model: ModelName,
    /// The seconds since the request arrived.
    pub(crate) waited: f64,
    /// The requests that waited for the model, this one included.
    pub(crate) waiting: usize,
    /// The server that was chosen.
    pub(crate) server: Option<Arc<str>>,
    /// The servers that were compared, up to 8.
    pub(crate) candidates: Vec<Candidate>,
}

/// A server that was compared.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) server: Arc<str>,
    pub(crate) terms: Terms,
    /// The request could be sent there at once.
    pub(crate) is_open: bool,
    /// The request would load the model there.
    pub(crate) loads: bool,
}

/// The last choices. The memory of the oldest is used again.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    kept: VecDeque<Decision>,
    current: Vec<Candidate>,
}

impl Decisions {
    pub(super) fn begin(&mut self) {
        self.current.clear();
    }

    pub(super) fn consider(&mut self, name: &Arc<str>, judged: &Judgement) {
        if self.current.len() < CANDIDATES {
            self.current.push(Candidate {
                server: name.clone(),
                terms: judged.terms,
                is_open: judged.is_open,
                loads: judged.loads,
            });
        }
    }

    pub(super) fn finish(&mut self, ask: &Ask<'_>, chosen: Option<Arc<str>>) {
        let mut row = match self.kept.len() < KEPT {
            true => None,
            false => self.kept.pop_front(),
        };
        let mut candidates = row
            .as_mut()
            .map(|row| std::mem::take(&mut row.candidates))
            .unwrap_or_default();
        std::mem::swap(&mut candidates, &mut self.current);
        self.current.clear();
        self.kept.push_back(Decision {
            at: ask.now,
            model: ask.model.clone(),
            waited: super::lane::seconds(ask.since, ask.now),
            waiting: ask.waiting,
            server: chosen,
            candidates,
        });
    }

    pub(super) fn latest(&self) -> Vec<Decision> {
        self.kept.iter().rev().cloned().collect()
    }
}
