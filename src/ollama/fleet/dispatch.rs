//! Hands the slots of all backends to the requests in the queue. The choice, the slot and the
//! breaker's token are one critical section of the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llamatower_layers::breaker::Token;
use llamatower_layers::llm_request::PromptPrefix;
use llamatower_layers::queue::{Dispatch, Line};
use llamatower_layers::retry::Attempts;
use llamatower_layers::{BoxError, Failure, ModelName};
use tokio::time::Instant;

use super::catalogue::{Catalogue, Members};
use super::flight::Flight;
use super::member::{Member, Slot};
use super::outlier::Standing;
use super::policy::{Ask, Availability, NO_LIMIT, ServerId, View};
use super::router::Router;
use crate::clients::Client;

/// Assigns the slots of all backends.
#[derive(Debug)]
pub struct Dispatcher<S> {
    catalogue: Arc<Catalogue<S>>,
    router: Router,
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

/// What a request needs of its backend.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// The backends that were tried before.
    pub attempts: Option<Attempts>,
    /// The expected tokens of its prompt.
    pub prompt_tokens: f64,
    /// The expected tokens of its response.
    pub output_tokens: f64,
    /// The size of the context that it asks for, in tokens.
    pub num_ctx: Option<u64>,
    /// Whether another `num_ctx` can be sent in its place.
    pub may_change_num_ctx: bool,
    /// How its prompt begins.
    pub prefix: PromptPrefix,
    /// Whether the response is a stream.
    pub streams: bool,
}

impl Need {
    /// The names of the backends that were tried before.
    fn tried(&self) -> Vec<Arc<str>> {
        let attempts = self.attempts.as_ref();
        attempts.map(Attempts::tried).unwrap_or_default()
    }
}

impl Need {
    /// What the policy is asked for a request of this model.
    pub(super) fn ask<'a>(&'a self, model: &'a ModelName, line: Line) -> Ask<'a> {
        Ask {
            model,
            prompt_tokens: self.prompt_tokens,
            output_tokens: Some(self.output_tokens),
            num_ctx: self.num_ctx,
            may_change_num_ctx: self.may_change_num_ctx,
            prefix: self.prefix.blocks(),
            prefix_part: self.prefix.part_of_prompt(),
            streams: self.streams,
            waiting: line.waiting,
            may_probe_slots: line.has_average_backlog(),
            only: None,
            since: line.since,
            now: line.now,
        }
    }
}

impl<S> Dispatcher<S> {
    pub(super) fn new(catalogue: Arc<Catalogue<S>>, router: Router) -> Self {
        Self {
            catalogue,
            router,
            turn: AtomicUsize::new(0),
        }
    }

    /// A slot of the backend that the policy chooses, of these backends if they are given.
    fn take(
        &self,
        members: &Members<S>,
        model: &ModelName,
        need: &Need,
        only: Option<&[Arc<str>]>,
        line: Line,
    ) -> Option<Slot<S>> {
        let ask = Ask {
            only,
            ..need.ask(model, line)
        };
        let tried = need.tried();
        let view = |id: ServerId| view(members.by_id(id)?, &ask, &tried);
        let grant = self.router.change(|policy| policy.choose(&ask, view))?;
        let flight = Flight::new(model.clone(), grant, self.router.clone());
        let member = members.by_id(grant.server)?;
        let mut slot = member.take(Some(flight));
        slot.line = Some(line);
        if grant.is_trial {
            slot.begin_trial();
        }
        let untried = match grant.untried {
            0 => usize::from(self.has_avoided(members, &ask, &tried, grant.server)),
            untried => untried,
        };
        Some(slot.chosen(token(member), untried))
    }

    /// Whether a backend that was not tried is only avoided for the model and has a free slot, so that a next
    /// attempt could go there at once. One that was silent does not count: the client would have to wait for the
    /// time-out.
    fn has_avoided(
        &self,
        members: &Members<S>,
        ask: &Ask<'_>,
        tried: &[Arc<str>],
        chosen: ServerId,
    ) -> bool {
        let has_slot = |id| {
            self.router
                .change(|policy| policy.has_slot(ask.model, id, ask.now))
        };
        members.holders(ask.model).iter().any(|member| {
            member.id != chosen
                && !tried.contains(member.backend.name())
                && !member.backend.is_cordoned()
                && availability(member, Standing::Normal) == Availability::Healthy
                && !member.outliers.is_silent(ask.model)
                && has_slot(member.id)
        })
    }

    /// The backend for a request that needs no slot: of those in the best state the one with the
    /// fewest requests in flight.
    fn take_any(&self, candidates: &[Arc<Member<S>>], need: &Need) -> Option<Slot<S>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len().max(1);
        let in_turn = || candidates[turn..].iter().chain(&candidates[..turn]);
        let tried = need.tried();
        let state = |member: &Member<S>| {
            (
                availability(member, Standing::Normal),
                tried.contains(member.backend.name()),
            )
        };
        let member = in_turn().min_by_key(|member| (state(member), member.in_flight()))?;
        let best = state(member);
        let equals = in_turn().filter(|other| state(other) == best).count();
        let untried = if best.1 { 0 } else { equals - 1 };
        Some(member.take(None).chosen(token(member), untried))
    }
}

/// What the policy is told of a backend, for a request that has tried these backends before; `None`
/// if it is cordoned.
pub(super) fn view<S>(member: &Member<S>, ask: &Ask<'_>, tried: &[Arc<str>]) -> Option<View> {
    if member.backend.is_cordoned() {
        return None;
    }
    let standing = member.outliers.standing(ask.model, ask.now);
    let standing = standing.for_attempt(!tried.is_empty());
    Some(View {
        availability: availability(member, standing),
        was_tried: tried.contains(member.backend.name()),
        is_trial: standing == Standing::TrialDue,
    })
}

fn availability<S>(member: &Member<S>, standing: Standing) -> Availability {
    match (member.backend.is_up(), member.breaker.would_allow()) {
        (true, true) if standing == Standing::Avoided => Availability::Avoided,
        (true, true) => Availability::Healthy,
        (true, false) => Availability::BreakerOpen,
        (false, true) => Availability::Down,
        (false, false) => Availability::DownAndOpen,
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
    type Request = Need;
    type Slot = Slot<S>;

    fn try_take(
        &self,
        class: &Class,
        need: &Need,
        line: Line,
    ) -> Result<Option<Slot<S>>, BoxError> {
        let members = self.catalogue.members();
        let held = class
            .model
            .as_ref()
            .filter(|model| class.runs_model && !members.holders(model).is_empty());
        Ok(match held {
            Some(model) => self.take(&members, model, need, None, line),
            None => match members.only_cordoned(class.model.as_ref()) {
                Some(cordoned) => return Err(Failure::from(cordoned).into()),
                None => self.take_any(&members.candidates(class.model.as_ref()), need),
            },
        })
    }

    /// A request that has failed at a backend may wait for another one.
    fn may_be_passed(&self, need: &Need) -> bool {
        let attempts = need.attempts.as_ref();
        attempts.is_some_and(|attempts| attempts.number() > 1)
    }

    /// A backend that the first one has tried is left for a request that has not tried it.
    fn can_pass(&self, first: &Need, need: &Need) -> bool {
        let Some(own) = need.attempts.as_ref().filter(|_| self.may_be_passed(need)) else {
            return true;
        };
        first.tried().iter().any(|name| !own.has_tried(name))
    }

    fn try_take_past(
        &self,
        class: &Class,
        first: &Need,
        need: &Need,
        line: Line,
    ) -> Result<Option<Slot<S>>, BoxError> {
        let members = self.catalogue.members();
        let model = class.model.as_ref().filter(|_| class.runs_model);
        Ok(model.and_then(|model| self.take(&members, model, need, Some(&first.tried()), line)))
    }

    fn slots(&self, class: &Class) -> Option<usize> {
        let model = class.model.as_ref().filter(|_| class.runs_model)?;
        let (members, now) = (self.catalogue.members(), Instant::now());
        let is_up = |id| {
            let member = members.by_id(id);
            member.is_some_and(|member| member.backend.is_up() && !member.backend.is_cordoned())
        };
        let slots = self
            .router
            .change(|policy| policy.slots_of(model, is_up, now));
        // Without a limit, as many as are held.
        Some(slots).filter(|slots| *slots < NO_LIMIT as usize)
    }

    fn waiting_changed(&self, class: &Class, waiting: usize) {
        if let Some(model) = class.model.as_ref().filter(|_| class.runs_model) {
            self.router.set_waiting(model, waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use http::{Request, Response, StatusCode};
    use llamatower_layers::breaker::State;
    use llamatower_layers::retry::{RetryBudget, RetryLayer};
    use tower::{Layer, ServiceExt};

    use super::super::member::tests::{installed, member};
    use super::super::outlier::{Outcome, Reason};
    use super::*;

    /// A dispatcher of members that have the model `m`.
    fn dispatcher(members: &[&Arc<Member<()>>]) -> Dispatcher<()> {
        let router = members[0].router().clone();
        for member in members {
            member.set_models(vec![installed("m")]);
            member.tell_installed();
        }
        let by_host = members.iter().map(|member| vec![Arc::clone(member)]);
        Dispatcher::new(Arc::new(Catalogue::new(by_host.collect())), router)
    }

    fn class(model: &str) -> Class {
        Class {
            model: Some(ModelName::parse(model).unwrap()),
            runs_model: true,
        }
    }

    fn try_take(dispatcher: &Dispatcher<()>) -> Option<Slot<()>> {
        let line = Line::arriving(Instant::now());
        dispatcher
            .try_take(&class("m"), &Need::default(), line)
            .unwrap()
    }

    fn name(slot: &Slot<()>) -> &str {
        slot.member().backend.address().host()
    }

    #[test]
    fn equal_backends_take_turns_and_the_least_loaded_is_chosen() {
        let router = Router::default();
        let members = ["a", "b", "c"].map(|name| member(name, Some(9), &router));
        let dispatcher = dispatcher(&[&members[0], &members[1], &members[2]]);
        let mut held: Vec<_> = (0..6).map(|_| take(&dispatcher)).collect();
        held.sort_by_key(|slot| name(slot).to_owned());
        let names: Vec<_> = held.iter().map(name).collect();
        assert_eq!(names, ["a", "a", "b", "b", "c", "c"]);
        held.drain(2..4);
        let next = [take(&dispatcher), take(&dispatcher)];
        assert_eq!([name(&next[0]), name(&next[1])], ["b", "b"]);
    }

    /// A backend whose breaker is open.
    fn failing(address: &str, router: &Router) -> Arc<Member<()>> {
        let member = member(address, Some(9), router);
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
        let router = Router::default();
        let failing = failing("failing", &router);
        let healthy = member("healthy", Some(1), &router);
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

    /// What a request needs that has failed at this backend.
    async fn retried(at: &Member<()>) -> Need {
        let at = at.backend.name().clone();
        let seen = Arc::new(Mutex::new(None));
        let noted = seen.clone();
        let failing = tower::service_fn(move |request: Request<()>| {
            let attempts = Attempts::of(request.extensions()).unwrap();
            attempts.record_backend(at.clone());
            *noted.lock().unwrap() = Some(attempts.clone());
            let mut busy = Response::new(String::new());
            *busy.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            std::future::ready(Ok::<_, BoxError>(busy))
        });
        let layer = RetryLayer::new(RetryBudget::default()).with_replayable(|_, _| true);
        let answer = layer.layer(failing).oneshot(Request::new(())).await;
        assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        let attempts = seen.lock().unwrap().take();
        Need {
            attempts,
            ..Need::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_passes_one_that_has_failed_at_another_backend() {
        let router = Router::default();
        let [a, b] = ["a", "b"].map(|name| member(name, Some(1), &router));
        let both = dispatcher(&[&a, &b]);
        let at_a = retried(&a).await;
        let at_b = retried(&b).await;
        let fresh = Need::default();
        assert!(both.may_be_passed(&at_a) && !both.may_be_passed(&fresh));
        assert!(both.can_pass(&at_a, &fresh) && both.can_pass(&at_a, &at_b));
        assert!(!both.can_pass(&at_a, &at_a.clone()));
        let line = Line::arriving(Instant::now());
        let slot = both.try_take_past(&class("m"), &at_a, &at_b, line).unwrap();
        assert_eq!(name(&slot.unwrap()), "a");
    }

    #[test]
    fn an_avoided_backend_is_left_for_the_next_attempt_unless_it_was_silent() {
        for (reason, left) in [(Reason::Busy, 1), (Reason::Failing, 1), (Reason::Silent, 0)] {
            let router = Router::default();
            let members = ["avoided", "healthy"].map(|name| member(name, Some(9), &router));
            let both = dispatcher(&[&members[0], &members[1]]);
            let model = class("m").model.unwrap();
            let bad = Outcome::Bad(reason, None);
            let outliers = &members[0].outliers;
            outliers.record(&model, bad, Instant::now());
            let slot = take(&both);
            assert_eq!((name(&slot), slot.left), ("healthy", left), "{reason:?}");
            members[0].backend.set_up(false);
            assert_eq!(take(&both).left, 0, "it is down");
        }
    }

    #[test]
    fn an_avoided_backend_without_a_free_slot_is_not_left() {
        let router = Router::default();
        let avoided = member("avoided", Some(1), &router);
        let held = take(&dispatcher(&[&avoided]));
        let healthy = member("healthy", Some(9), &router);
        let both = dispatcher(&[&avoided, &healthy]);
        let (model, bad) = (class("m").model.unwrap(), Outcome::Bad(Reason::Busy, None));
        avoided.outliers.record(&model, bad, Instant::now());
        let slot = take(&both);
        assert_eq!((name(&slot), slot.left), ("healthy", 0));
        drop(held);
        assert_eq!(take(&both).left, 1);
    }

    #[test]
    fn an_open_breaker_counts_the_requests_that_had_no_alternative() {
        let failing = failing("failing", &Router::default());
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
        let router = Router::default();
        let failing = failing("failing", &router);
        let healthy = member("healthy", Some(9), &router);
        failing.breaker.half_open();
        let both = dispatcher(&[&failing, &healthy]);
        let held: Vec<_> = (0..6).map(|_| take(&both)).collect();
        let to_failing = held.iter().filter(|slot| name(slot) == "failing").count();
        assert_eq!(to_failing, 1);
    }

    #[test]
    fn the_slots_of_a_model_are_those_of_the_servers_that_serve_it_after_its_load() {
        let router = Router::default();
        let members = ["a", "b"].map(|name| member(name, Some(9), &router));
        let dispatcher = dispatcher(&[&members[0], &members[1]]);
        let slots = || dispatcher.slots(&class("m"));
        assert_eq!(
            slots(),
            Some(18),
            "the servers do not tell what they have in memory"
        );
        let now = Instant::now();
        for member in &members {
            router.change(|policy| policy.set_residents(member.id, Some(&[]), now, now));
        }
        assert_eq!(slots(), Some(9), "one of them will load it");
        let held = take(&dispatcher);
        assert!(try_take(&dispatcher).is_none(), "it is being loaded");
        assert_eq!(slots(), Some(9));
        held.member().backend.set_up(false);
        assert_eq!(slots(), Some(9), "of the other server");
        members
            .iter()
            .for_each(|member| member.backend.set_up(false));
        assert_eq!(slots(), Some(0));
    }

    #[test]
    fn a_backend_that_is_down_is_not_chosen_while_another_is_up_but_busy() {
        let router = Router::default();
        let (up, down) = (
            member("up", Some(1), &router),
            member("down", Some(1), &router),
        );
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
