//! Who of the backends serves a request: the choice, the slot and the breaker's token, all taken in
//! the queue's critical section.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llamatower_layers::breaker::Token;
use llamatower_layers::queue::Dispatch;
use llamatower_layers::retry::Attempts;
use llamatower_layers::{BoxError, ModelName};

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
    state: Availability,
    was_asked: bool,
    in_flight: usize,
}

/// What is known against asking a backend at all, the least first. A worse one is asked only where no
/// backend is better: then to refuse the request would help nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Availability {
    Sound,
    /// Its breaker lets nothing through now.
    Resting,
    Down,
    DownAndResting,
}

impl Availability {
    fn of<S>(member: &Member<S>) -> Self {
        match (member.backend.is_up(), member.breaker.would_allow()) {
            (true, true) => Self::Sound,
            (true, false) => Self::Resting,
            (false, true) => Self::Down,
            (false, false) => Self::DownAndResting,
        }
    }
}

/// The best backend that has a slot, and how many as good ones could be asked that were not.
struct Search<'a, S> {
    best: Option<(Rank, &'a Arc<Member<S>>)>,
    /// Of all candidates, whether they have a slot or not.
    best_state: Option<Availability>,
    /// How many of that state were not asked.
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
            best_state: None,
            new: 0,
        };
        for member in candidates {
            let rank = Rank {
                state: Availability::of(member),
                was_asked: tried.contains(member.backend.name()),
                in_flight: member.in_flight(),
            };
            if search.best_state.is_none_or(|best| rank.state < best) {
                search.best_state = Some(rank.state);
                search.new = 0;
            }
            if search.best_state == Some(rank.state) {
                search.new += usize::from(!rank.was_asked);
            }
            let is_better = search.best.is_none_or(|(best, _)| rank < best);
            if is_better && member.has_slot(model) {
                search.best = Some((rank, member));
            }
        }
        search
    }

    /// Never one in a worse state than another candidate, though that one has no slot.
    fn chosen(&self) -> Option<(&'a Arc<Member<S>>, usize)> {
        let (rank, member) = self.best?;
        if self.best_state != Some(rank.state) {
            return None;
        }
        Some((member, self.new - usize::from(!rank.was_asked)))
    }
}

/// The breaker's token, where these are counted. It is given in any state: that of the breaker was
/// considered in the choice.
fn token<S>(member: &Member<S>) -> Option<Token> {
    let breaker = &member.breaker;
    (!breaker.is_closed()).then(|| breaker.acquire_anyway())
}

impl<S> Dispatch for Dispatcher<S> {
    type Class = Class;
    type Key = Option<Client>;
    /// Who was asked before.
    type Request = Option<Attempts>;
    type Slot = Slot<S>;

    /// Among those that have the model: one that is up and whose breaker lets requests through; else
    /// one that is up; else any. Among equals, one that was not asked yet, then the one that works on
    /// least. A request waits for a slot of the best rather than take one in a worse state.
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
        let chosen = Search::among(in_turn, model, attempts.as_ref()).chosen();
        Ok(chosen.map(|(member, left)| member.take(model).chosen(token(member), left)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_layers::breaker::State;

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

    /// Its breaker is open.
    fn failing(address: &str) -> Arc<Member<()>> {
        let member = member(address, 0);
        for _ in 0..5 {
            member.breaker.acquire().unwrap().fail();
        }
        assert_eq!(member.breaker.state(), State::Open);
        member
    }

    fn take(dispatcher: &Dispatcher<()>) -> Slot<()> {
        dispatcher.try_take(&class("m"), &None).unwrap().unwrap()
    }

    #[test]
    fn a_backend_whose_breaker_is_open_is_asked_only_where_no_other_can_serve() {
        let (failing, sound) = (failing("failing"), member("sound", 1));
        let both = dispatcher(&[&failing, &sound]);
        let held = take(&both);
        assert_eq!((name(&held), held.left), ("sound", 0));
        assert!(
            both.try_take(&class("m"), &None).unwrap().is_none(),
            "it waits for a slot of the sound one"
        );
        drop(held);
        sound.backend.note(false);
        assert_eq!(name(&take(&both)), "failing", "the sound one is down");
        let alone = dispatcher(&[&failing]);
        let slot = take(&alone);
        assert_eq!((name(&slot), slot.left), ("failing", 0));
    }

    #[test]
    fn what_an_open_breaker_let_through_for_want_of_others_is_judged() {
        let failing = failing("failing");
        let alone = dispatcher(&[&failing]);
        take(&alone).take_token().unwrap().fail();
        assert_eq!(failing.breaker.state(), State::Open);
        take(&alone).take_token().unwrap().succeed();
        assert_eq!(failing.breaker.state(), State::HalfOpen);
        take(&alone).take_token().unwrap().succeed();
        assert_eq!(failing.breaker.state(), State::Closed);
    }

    #[test]
    fn a_half_open_breaker_gets_one_probe_while_another_backend_is_sound() {
        let (failing, sound) = (failing("failing"), member("sound", 0));
        failing.breaker.half_open();
        let both = dispatcher(&[&failing, &sound]);
        let held: Vec<_> = (0..6).map(|_| take(&both)).collect();
        let to_failing = held.iter().filter(|slot| name(slot) == "failing").count();
        assert_eq!(to_failing, 1);
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
