//! The last choices and their reasons.

use std::collections::VecDeque;
use std::sync::Arc;

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::ServerId;
use super::choose::{Ask, Availability, View};
use super::cost::{Judgement, Terms};

/// The number of choices that are kept.
const KEPT: usize = 100;
/// The number of servers that are kept for each choice.
const CANDIDATES: usize = 8;

/// One choice of a server for a request that runs a model.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Its number.
    pub id: DecisionId,
    /// When it was made.
    pub at: Instant,
    /// The model.
    pub model: ModelName,
    /// The seconds since the request arrived.
    pub waited: f64,
    /// The requests that waited for the model, this one included.
    pub waiting: usize,
    /// The name of the server that was chosen.
    pub server: Option<Arc<str>>,
    /// The servers that have the model, up to 8; the chosen one is among them.
    pub candidates: Vec<Candidate>,
}

/// A server that has the model.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub server: Arc<str>,
    /// Its state. Only servers in the best state of all are compared.
    pub availability: Availability,
    /// An earlier attempt of the request went there. Such a server is chosen only if there is no
    /// other in the same state.
    pub was_tried: bool,
    /// The terms of its cost; `None` if it was not compared, because another one was in a better
    /// state.
    pub terms: Option<Terms>,
    /// The request could be sent there at once.
    pub is_open: bool,
    /// The request would load the model there.
    pub loads: bool,
}

/// The number of a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecisionId(u64);

impl DecisionId {
    /// The number: one more for each choice.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A server that was considered. Its name is looked up when it is shown, which is rare.
#[derive(Clone, Debug)]
pub(super) struct Considered {
    server: Named,
    view: View,
    terms: Option<Terms>,
    is_open: bool,
    loads: bool,
}

#[derive(Clone, Debug)]
enum Named {
    Id(ServerId),
    /// The index may belong to another server now.
    Removed(Arc<str>),
}

impl Considered {
    pub(super) fn compared(
        server: ServerId,
        view: View,
        judged: &Judgement,
        is_open: bool,
    ) -> Self {
        Self {
            is_open,
            ..Self::open(server, view, judged.terms, judged.loads)
        }
    }

    pub(super) fn not_compared(server: ServerId, view: View) -> Self {
        Self {
            terms: None,
            is_open: false,
            ..Self::open(server, view, Terms::default(), false)
        }
    }

    pub(super) fn open(server: ServerId, view: View, terms: Terms, loads: bool) -> Self {
        Self {
            server: Named::Id(server),
            view,
            terms: Some(terms),
            is_open: true,
            loads,
        }
    }

    fn is(&self, id: ServerId) -> bool {
        matches!(self.server, Named::Id(own) if own == id)
    }

    fn shown<'a>(&'a self, name_of: impl Fn(ServerId) -> Option<&'a Arc<str>>) -> Candidate {
        let server = match &self.server {
            Named::Id(id) => name_of(*id).cloned().unwrap_or_default(),
            Named::Removed(name) => name.clone(),
        };
        Candidate {
            server,
            availability: self.view.availability,
            was_tried: self.view.was_tried,
            terms: self.terms,
            is_open: self.is_open,
            loads: self.loads,
        }
    }
}

/// One choice, as it is kept.
#[derive(Debug)]
struct Row {
    id: DecisionId,
    at: Instant,
    model: ModelName,
    waited: f64,
    waiting: usize,
    considered: Vec<Considered>,
    /// The index of the chosen one.
    chosen: usize,
}

impl Row {
    fn shown<'a>(&'a self, name_of: impl Fn(ServerId) -> Option<&'a Arc<str>>) -> Decision {
        let candidates = self.considered.iter().map(|row| row.shown(&name_of));
        let candidates: Vec<_> = candidates.collect();
        Decision {
            id: self.id,
            at: self.at,
            model: self.model.clone(),
            waited: self.waited,
            waiting: self.waiting,
            server: candidates.get(self.chosen).map(|row| row.server.clone()),
            candidates,
        }
    }
}

/// The last choices. The memory of the oldest is used again.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    kept: VecDeque<Row>,
    current: Vec<Considered>,
    made: u64,
}

impl Decisions {
    pub(super) fn begin(&mut self) {
        self.current.clear();
    }

    pub(super) fn consider(&mut self, considered: impl FnOnce() -> Considered) {
        if self.current.len() < CANDIDATES {
            self.current.push(considered());
        }
    }

    pub(super) fn finish(
        &mut self,
        ask: &Ask<'_>,
        server: ServerId,
        chosen: impl FnOnce() -> Considered,
    ) -> DecisionId {
        let oldest = match self.kept.len() < KEPT {
            true => None,
            false => self.kept.pop_front(),
        };
        let mut considered = oldest.map(|row| row.considered).unwrap_or_default();
        std::mem::swap(&mut considered, &mut self.current);
        self.current.clear();
        // The search may have begun with other servers, and more of them than are kept.
        let at = considered.iter().position(|row| row.is(server));
        let chosen = at.unwrap_or_else(|| {
            considered.truncate(CANDIDATES - 1);
            considered.push(chosen());
            considered.len() - 1
        });
        let id = DecisionId(self.made);
        self.kept.push_back(Row {
            id,
            at: ask.now,
            model: ask.model.clone(),
            waited: super::lane::seconds(ask.since, ask.now),
            waiting: ask.waiting,
            considered,
            chosen,
        });
        self.made += 1;
        id
    }

    /// Keeps the name of a server that is removed, because its index is used again.
    pub(super) fn removed(&mut self, id: ServerId, name: &Arc<str>) {
        let all = self.kept.iter_mut().flat_map(|row| &mut row.considered);
        for row in all.filter(|row| row.is(id)) {
            row.server = Named::Removed(name.clone());
        }
    }

    /// The last choices, the latest first.
    pub(super) fn latest<'a>(
        &'a self,
        name_of: impl Fn(ServerId) -> Option<&'a Arc<str>>,
    ) -> Vec<Decision> {
        let latest_first = self.kept.iter().rev();
        latest_first.map(|row| row.shown(&name_of)).collect()
    }

    /// A choice, if it is still kept.
    pub(super) fn get<'a>(
        &'a self,
        id: DecisionId,
        name_of: impl Fn(ServerId) -> Option<&'a Arc<str>>,
    ) -> Option<Decision> {
        let age = usize::try_from(self.made.checked_sub(id.0 + 1)?).ok()?;
        let row = self.kept.iter().rev().nth(age)?;
        Some(row.shown(name_of))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Grant, Policy, ServerSpec};
    use super::*;

    /// Servers that have the model `m`, named by their number.
    fn fleet(servers: usize) -> (Policy, Vec<ServerId>) {
        let mut policy = Policy::default();
        let ids = (0..servers).map(|number| {
            let id = policy.add_server(ServerSpec::new(number.to_string().into()));
            policy.set_installed(id, &[(model(), 0)]);
            id
        });
        let ids = ids.collect();
        (policy, ids)
    }

    fn model() -> ModelName {
        ModelName::parse("m").unwrap()
    }

    fn choose(policy: &mut Policy, state: impl Fn(ServerId) -> Availability) -> Grant {
        let (model, now) = (model(), Instant::now());
        let ask = Ask::arriving(&model, now);
        let view = |id| View {
            availability: state(id),
            was_tried: false,
            is_trial: false,
        };
        policy.choose(&ask, |id| Some(view(id))).unwrap()
    }

    #[test]
    fn the_chosen_server_is_shown_even_of_more_servers_than_are_kept() {
        let (mut policy, ids) = fleet(20);
        for _ in &ids {
            let grant = choose(&mut policy, |id| match id == ids[7] {
                true => Availability::Healthy,
                false => Availability::Down,
            });
            assert_eq!(grant.server, ids[7]);
            let decision = policy.decision(grant.decision).unwrap();
            assert_eq!(decision.server.as_deref(), Some("7"));
            assert_eq!(decision.candidates.len(), CANDIDATES);
            let is_chosen = |row: &&Candidate| *row.server == *"7";
            let chosen = decision.candidates.iter().find(is_chosen).unwrap();
            assert_eq!((chosen.terms, chosen.is_open), (Some(grant.terms), true));
            policy.end(&model(), grant.flight, None, Instant::now());
        }
    }

    #[test]
    fn a_server_in_a_worse_state_is_shown_with_its_state() {
        let (mut policy, ids) = fleet(2);
        for _ in 0..2 {
            let grant = choose(&mut policy, |id| match id == ids[0] {
                true => Availability::Healthy,
                false => Availability::Avoided,
            });
            let decision = policy.decision(grant.decision).unwrap();
            let mut states: Vec<_> = decision
                .candidates
                .iter()
                .map(|row| (&*row.server, row.availability.name()))
                .collect();
            states.sort_unstable();
            assert_eq!(states, [("0", "healthy"), ("1", "avoided")]);
        }
    }

    #[test]
    fn a_choice_keeps_the_name_of_a_server_that_is_removed() {
        let (mut policy, ids) = fleet(1);
        let grant = choose(&mut policy, |_| Availability::Healthy);
        policy.end(&model(), grant.flight, None, Instant::now());
        policy.remove_server(ids[0]);
        let again = policy.add_server(ServerSpec::new("new".into()));
        assert_eq!(again, ids[0], "the same index");
        let decision = policy.decision(grant.decision).unwrap();
        assert_eq!(decision.server.as_deref(), Some("0"));
        assert_eq!(*decision.candidates[0].server, *"0");
    }

    #[test]
    fn a_choice_is_kept_until_a_hundred_more_were_made() {
        let (mut policy, _) = fleet(1);
        let healthy = |_| Availability::Healthy;
        let mut next = || {
            let grant = choose(&mut policy, healthy);
            policy.end(&model(), grant.flight, None, Instant::now());
            (grant.decision, policy.decisions())
        };
        let (first, before) = next();
        for _ in 1..KEPT {
            next();
        }
        let (latest, after) = next();
        assert_eq!((before.len(), after.len()), (1, KEPT));
        assert!(policy.decision(first).is_none());
        assert_eq!(policy.decision(latest).unwrap().at, after[0].at);
    }
}
