//! Who of the backends serves a request: the choice, the slot and the breaker's token, all taken in
//! the queue's critical section.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llamatower_layers::breaker::Token;
use llamatower_layers::queue::Dispatch;
use llamatower_layers::retry::Attempts;
use llamatower_layers::{BoxError, Failure, ModelName};

use super::BackendsResting;
use super::catalogue::{Catalogue, Members};
use super::member::{Member, Slot};
use crate::client::Client;

/// Hands out the slots of all backends.
#[derive(Debug)]
pub struct Dispatcher<S> {
    catalogue: Arc<Catalogue<S>>,
    /// Where the search begins, so that equals take turns.
    turn: AtomicUsize,
}

/// What waits in one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The model that requests are about.
    pub model: Option<ModelName>,
    /// Whether they run it, and so need one of its slots.
    pub runs_model: bool,
}

impl<S> Dispatcher<S> {
    pub(super) fn new(catalogue: Arc<Catalogue<S>>) -> Self {
        Self {
            catalogue,
            turn: AtomicUsize::new(0),
        }
    }
}

/// Who has the model; everybody, if nobody has it or none is named: whose own words for that are
/// the right ones.
fn candidates<'a, S>(members: &'a Members<S>, model: Option<&ModelName>) -> &'a [Arc<Member<S>>] {
    match model.map(|model| members.holders(model)) {
        Some(holders) if !holders.is_empty() => holders,
        _ => members.all(),
    }
}

/// What speaks against a backend; the least of it is best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_down: bool,
    was_asked: bool,
    in_flight: usize,
}

/// The best backend that has a slot, and how many could be asked that were not.
struct Search<'a, S> {
    best: Option<(Rank, &'a Arc<Member<S>>)>,
    some_allowed: bool,
    some_up: bool,
    new_and_up: usize,
    new: usize,
}

impl<'a, S> Search<'a, S> {
    fn among(
        candidates: impl Iterator<Item = &'a Arc<Member<S>>>,
        model: Option<&ModelName>,
        attempts: Option<&Attempts>,
    ) -> Self {
        let tried = attempts.map(Attempts::tried).unwrap_or_default();
        let mut search = Self {
            best: None,
            some_allowed: false,
            some_up: false,
            new_and_up: 0,
            new: 0,
        };
        for member in candidates.filter(|member| member.breaker.would_allow()) {
            let rank = Rank {
                is_down: !member.backend.is_up(),
                was_asked: tried.contains(member.backend.name()),
                in_flight: member.in_flight(),
            };
            search.some_allowed = true;
            search.some_up |= !rank.is_down;
            search.new += usize::from(!rank.was_asked);
            search.new_and_up += usize::from(!rank.was_asked && !rank.is_down);
            let is_better = search.best.is_none_or(|(best, _)| rank < best);
            if is_better && member.has_slot(model) {
                search.best = Some((rank, member));
            }
        }
        search
    }

    /// Never one that is down while one is up.
    fn chosen(&self) -> Option<(&'a Arc<Member<S>>, usize)> {
        let (rank, member) = self.best?;
        if rank.is_down && self.some_up {
            return None;
        }
        let new = if self.some_up {
            self.new_and_up
        } else {
            self.new
        };
        Some((member, new - usize::from(!rank.was_asked)))
    }
}

/// The breaker's token, where these are counted. Nobody else takes one but requests that come
/// without it.
fn probe_token<S>(member: &Member<S>) -> Option<Token> {
    let breaker = &member.breaker;
    (!breaker.is_closed()).then(|| breaker.acquire().ok())?
}

/// When the first of these may be asked again.
fn resting<S>(candidates: &[Arc<Member<S>>]) -> BackendsResting {
    let waits = candidates.iter();
    let waits = waits.map(|member| member.breaker.retry_after().unwrap_or_default());
    BackendsResting {
        backends: candidates
            .iter()
            .map(|member| member.backend.name().clone())
            .collect(),
        retry_after: waits.min().unwrap_or_default().max(Duration::from_secs(1)),
    }
}

impl<S> Dispatch for Dispatcher<S> {
    type Class = Class;
    type Key = Option<Client>;
    /// Who was asked before.
    type Request = Option<Attempts>;
    type Slot = Slot<S>;

    /// The best kind first: who has the model and is up and was not asked yet; who has it and is
    /// up; who has it. A kind none of which has a slot leaves the request to the next kind, but
    /// never to a backend that is down while one is up. Within a kind, who works on least.
    fn try_take(
        &self,
        class: &Class,
        attempts: &Option<Attempts>,
    ) -> Result<Option<Slot<S>>, BoxError> {
        let members = self.catalogue.members();
        let candidates = candidates(&members, class.model.as_ref());
        let model = class.model.as_ref().filter(|_| class.runs_model);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len().max(1);
        let in_turn = candidates[turn..].iter().chain(&candidates[..turn]);
        let search = Search::among(in_turn, model, attempts.as_ref());
        if !search.some_allowed {
            return Err(Failure::from(resting(candidates)).into());
        }
        let chosen = search.chosen();
        Ok(chosen.map(|(member, left)| member.take(model).chosen(probe_token(member), left)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::member::tests::member;
    use super::*;

    fn dispatcher(members: &[&Arc<Member<()>>]) -> Dispatcher<()> {
        let by_host = members.iter().map(|member| vec![Arc::clone(member)]);
        Dispatcher::new(Arc::new(Catalogue::new(by_host.collect())))
    }

    fn class(model: &str) -> Class {
        Class {
            model: Some(ModelName::parse(model).unwrap()),
            runs_model: true,
        }
    }

    fn name(slot: &Slot<()>) -> &str {
        slot.member().backend.address().host()
    }

    #[test]
    fn the_backend_that_works_on_least_is_chosen_and_equals_take_turns() {
        let members = [member("a", 0), member("b", 0), member("c", 0)];
        let dispatcher = dispatcher(&[&members[0], &members[1], &members[2]]);
        let _busy = [members[2].take(None), members[2].take(None)];
        let held: Vec<_> = (0..4)
            .map(|_| dispatcher.try_take(&class("m"), &None).unwrap().unwrap())
            .collect();
        let mut names: Vec<_> = held.iter().map(name).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "a", "b", "b"]);
    }

    #[test]
    fn a_backend_that_is_down_is_not_asked_while_one_is_up_though_that_one_is_busy() {
        let (up, down) = (member("up", 1), member("down", 1));
        down.backend.note(false);
        let dispatcher = dispatcher(&[&down, &up]);
        let held = dispatcher.try_take(&class("m"), &None).unwrap().unwrap();
        assert_eq!(name(&held), "up");
        assert!(dispatcher.try_take(&class("m"), &None).unwrap().is_none());
        up.backend.note(false);
        let slot = dispatcher.try_take(&class("m"), &None).unwrap().unwrap();
        assert_eq!(name(&slot), "down");
    }
}
