//! Chooses the backend of a request. The choice, the slot and the breaker's token are one critical
//! section of the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llamatower_layers::breaker::Token;
use llamatower_layers::queue::{Dispatch, Line};
use llamatower_layers::retry::Attempts;
use llamatower_layers::{BoxError, ModelName};

use super::catalogue::{Catalogue, Members};
use super::member::{Member, Slot};
use super::outlier::Standing;
use crate::client::Client;

/// Assigns the slots of all backends.
#[derive(Debug)]
pub struct Dispatcher<S> {
    catalogue: Arc<Catalogue<S>>,
    /// The index where the search begins, so that equal backends take turns.
    turn: AtomicUsize,
}

/// The requests that share a line of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// The model of the requests.
    pub model: Option<ModelName>,
    /// Whether the requests run the model, and so need a slot.
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

/// The backends that have the model. If no backend has it or the request names none, these are all
/// backends, because the response of any server is right then.
fn candidates<'a, S>(members: &'a Members<S>, model: Option<&ModelName>) -> &'a [Arc<Member<S>>] {
    match model.map(|model| members.holders(model)) {
        Some(holders) if !holders.is_empty() => holders,
        _ => members.all(),
    }
}

/// The order of preference between backends; the lowest rank is best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    state: Availability,
    was_tried: bool,
    in_flight: usize,
}

/// The state of a backend, best first. A backend in a worse state is chosen only if none is in a
/// better one; refusing the request would help no client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Availability {
    Healthy,
    /// It has refused or failed requests for this model.
    Avoided,
    /// Its breaker rejects requests.
    BreakerOpen,
    Down,
    DownAndOpen,
}

impl Availability {
    fn of<S>(member: &Member<S>, standing: Standing) -> Self {
        match (member.backend.is_up(), member.breaker.would_allow()) {
            (true, true) if standing == Standing::Avoided => Self::Avoided,
            (true, true) => Self::Healthy,
            (true, false) => Self::BreakerOpen,
            (false, true) => Self::Down,
            (false, false) => Self::DownAndOpen,
        }
    }
}

/// The best backend with a free slot, and the number of equally good backends that were not tried.
struct Search<'a, S> {
    best: Option<(Rank, Standing, &'a Arc<Member<S>>)>,
    /// The best state of all candidates, with or without a free slot.
    best_state: Option<Availability>,
    /// The number of candidates in that state that were not tried.
    untried: usize,
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
            untried: 0,
        };
        for member in candidates {
            let standing = match model {
                Some(model) => member.outliers.standing(model),
                None => Standing::Normal,
            };
            let rank = Rank {
                state: Availability::of(member, standing),
                was_tried: tried.contains(member.backend.name()),
                in_flight: member.in_flight(),
            };
            if search.best_state.is_none_or(|best| rank.state < best) {
                search.best_state = Some(rank.state);
                search.untried = 0;
            }
            if search.best_state == Some(rank.state) {
                search.untried += usize::from(!rank.was_tried);
            }
            let is_better = search.best.is_none_or(|(best, ..)| rank < best);
            if is_better && member.has_slot(model) {
                search.best = Some((rank, standing, member));
            }
        }
        search
    }

    /// A slot of the best backend with a free one, unless a candidate without one is in a better state.
    fn take(&self, model: Option<&ModelName>) -> Option<Slot<S>> {
        let (rank, standing, member) = self.best?;
        if self.best_state != Some(rank.state) {
            return None;
        }
        let mut slot = member.take(model);
        if standing == Standing::TrialDue {
            slot.begin_trial();
        }
        let untried = self.untried - usize::from(!rank.was_tried);
        Some(slot.chosen(token(member), untried))
    }
}

/// The breaker's token. It is given in every state, because the choice has already considered the
/// breaker.
fn token<S>(member: &Member<S>) -> Option<Token> {
    let breaker = &member.breaker;
    (!breaker.is_closed()).then(|| breaker.acquire_anyway())
}

impl<S> Dispatch for Dispatcher<S> {
    type Class = Class;
    type Key = Option<Client>;
    /// The backends that were tried before.
    type Request = Option<Attempts>;
    type Slot = Slot<S>;

    /// The order of preference among the backends that have the model: up with a breaker that
    /// allows requests, and not avoided for this model; then avoided; then up; then any. Among equals: one that was not tried yet, then the one
    /// with the fewest requests in flight. A request waits for a slot of a backend in the best
    /// state rather than take one in a worse state.
    fn try_take(
        &self,
        class: &Class,
        attempts: &Option<Attempts>,
        _line: Line,
    ) -> Result<Option<Slot<S>>, BoxError> {
        let members = self.catalogue.members();
        let candidates = candidates(&members, class.model.as_ref());
        let model = class.model.as_ref().filter(|_| class.runs_model);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len().max(1);
        let in_turn = candidates[turn..].iter().chain(&candidates[..turn]);
        Ok(Search::among(in_turn, model, attempts.as_ref()).take(model))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_layers::breaker::State;
    use tokio::time::Instant;

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

    fn try_take(dispatcher: &Dispatcher<()>) -> Option<Slot<()>> {
        let line = Line::arriving(Instant::now());
        dispatcher.try_take(&class("m"), &None, line).unwrap()
    }

    fn name(slot: &Slot<()>) -> &str {
        slot.member().backend.address().host()
    }

    #[test]
    fn the_least_loaded_backend_is_chosen_and_equals_take_turns() {
        let members = [member("a", 0), member("b", 0), member("c", 0)];
        let dispatcher = dispatcher(&[&members[0], &members[1], &members[2]]);
        let _busy = [members[2].take(None), members[2].take(None)];
        let held: Vec<_> = (0..4).map(|_| take(&dispatcher)).collect();
        let mut names: Vec<_> = held.iter().map(name).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "a", "b", "b"]);
    }

    /// A backend whose breaker is open.
    fn failing(address: &str) -> Arc<Member<()>> {
        let member = member(address, 0);
        for _ in 0..5 {
            member.breaker.acquire().unwrap().fail();
        }
        assert_eq!(member.breaker.state(), State::Open);
        member
    }

    fn take(dispatcher: &Dispatcher<()>) -> Slot<()> {
        try_take(dispatcher).unwrap()
    }

    #[test]
    fn a_backend_with_an_open_breaker_is_chosen_only_without_an_alternative() {
        let (failing, healthy) = (failing("failing"), member("healthy", 1));
        let both = dispatcher(&[&failing, &healthy]);
        let held = take(&both);
        assert_eq!((name(&held), held.left), ("healthy", 0));
        assert!(
            try_take(&both).is_none(),
            "it waits for a slot of the healthy backend"
        );
        drop(held);
        healthy.backend.set_up(false);
        assert_eq!(name(&take(&both)), "failing", "the healthy backend is down");
        let alone = dispatcher(&[&failing]);
        let slot = take(&alone);
        assert_eq!((name(&slot), slot.left), ("failing", 0));
    }

    #[test]
    fn an_open_breaker_counts_the_requests_that_had_no_alternative() {
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
    fn a_half_open_breaker_gets_one_probe_while_another_backend_is_healthy() {
        let (failing, healthy) = (failing("failing"), member("healthy", 0));
        failing.breaker.half_open();
        let both = dispatcher(&[&failing, &healthy]);
        let held: Vec<_> = (0..6).map(|_| take(&both)).collect();
        let to_failing = held.iter().filter(|slot| name(slot) == "failing").count();
        assert_eq!(to_failing, 1);
    }

    #[test]
    fn a_backend_that_is_down_is_not_chosen_while_another_is_up_but_busy() {
        let (up, down) = (member("up", 1), member("down", 1));
        down.backend.set_up(false);
        let dispatcher = dispatcher(&[&down, &up]);
        let held = take(&dispatcher);
        assert_eq!(name(&held), "up");
        assert!(try_take(&dispatcher).is_none());
        up.backend.set_up(false);
        let slot = take(&dispatcher);
        assert_eq!(name(&slot), "down");
    }
}
