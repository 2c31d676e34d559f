//! The choice of a backend for a request: its class, what it needs, its wait, and what the choice
//! records.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use llamatower_layers::breaker::Breaker;
use llamatower_layers::heartbeat::Waiting as WaitingText;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::queue::{self, Entry, QueuePosition, Ticket};
use llamatower_layers::retry::Attempts;
use llamatower_layers::route::{Choice, ChoiceOf, Choose};
use llamatower_layers::{Dialect, Failure, LlmRequest, Operation, Record, RouteMatch};
use tokio::time::{Instant, timeout_at};

use super::backend::Backend;
use super::dispatch::{Class, Dispatcher, Need};
use super::estimates::Expected;
use super::explain::LatestChoice;
use super::flight::Flight;
use super::leasing::{Leased, Leasing, ToTake};
use super::not_found::ModelNotFound;
use super::observe::Observed;
use super::permit::{Accounting, Permit};
use super::place::Places;
use super::wait_timer::WaitTimer;
use super::{Fleet, KeepInMemory, MayLoad, SentNumCtx};
use crate::clients::Client;

/// What a request waits for before a backend is chosen. Most requests do not wait.
#[derive(Default)]
pub enum Wait<S> {
    /// Not polled yet.
    #[default]
    Start,
    /// The catalogue is looking for the model.
    Model(Pin<Box<dyn Future<Output = ()> + Send>>, WaitTimer),
    /// The request is in the queue for a slot, since this time.
    Slot(Box<Ticket<Dispatcher<S>>>, WaitTimer, Instant),
    /// The slot that it has got is not leased yet, or the other gateways are not told of its load.
    Lease(Box<Leasing<S>>),
}

impl<S> Choose for Fleet<S>
where
    S: Clone + Send + Sync + 'static,
{
    type Service = Observed<S>;
    type Slot = Box<Permit<S>>;
    type Wait = Wait<S>;

    fn poll_choose(
        &self,
        wait: &mut Wait<S>,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        let class = match wait {
            Wait::Start => {
                let (class, is_known) = self.class_of(request);
                if let Some(model) = class.model.as_ref().filter(|_| !is_known) {
                    let known = Box::pin(self.await_model(model.clone()));
                    let timer = WaitTimer::since(Instant::now(), request, |outcome, time| {
                        outcome.waited += time
                    });
                    *wait = Wait::Model(known, timer);
                    return self.poll_choose(wait, request, cx);
                }
                class
            }
            Wait::Model(known, _) => {
                ready!(known.as_mut().poll(cx));
                *wait = Wait::Start;
                let (class, is_known) = self.class_of(request);
                if !is_known {
                    self.check_allowed(&class, request)?;
                }
                class
            }
            Wait::Slot(ticket, ..) => {
                let permit = ready!(Pin::new(ticket).poll(cx));
                let (timer, since) = match std::mem::take(wait) {
                    Wait::Slot(_, timer, since) => (Some(timer), Some(since)),
                    _ => (None, None),
                };
                return self.lease(permit?, since, timer, wait, request, cx);
            }
            Wait::Lease(leasing) => {
                let leased = ready!(leasing.poll(self, cx));
                *wait = Wait::Start;
                return match leased {
                    Leased::Yes(permit) => Poll::Ready(Ok(self.chosen(permit, request))),
                    Leased::No(since) => self.enter_again(since, wait, request, cx),
                };
            }
        };
        let entry = self.entry(&class, request);
        self.enter(class, entry, None, wait, request, cx)
    }
}

/// When a request arrived that has entered the queue for this model at this time.
fn arrival(request: &Parts, model: Option<&ModelName>, since: Instant) -> Instant {
    let extensions = &request.extensions;
    let attempts = Attempts::of(extensions).map(Attempts::started);
    let first = Places::arrival(extensions, model).or(attempts);
    first.map_or(since, |first| first.min(since))
}

impl<S> Fleet<S>
where
    S: Clone + Send + Sync + 'static,
{
    /// Enters the queue, in which the request waits since this time, or from now on.
    fn enter(
        &self,
        class: Class,
        entry: Entry<Option<Client>, Need>,
        since: Option<Instant>,
        wait: &mut Wait<S>,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        // Before the queue starts its limit: the recorded wait of a request that reaches it is no shorter.
        let now = Instant::now();
        let places = request.extensions.get::<Places>().cloned();
        let noted = places.and_then(|places| Some((places, class.model.clone()?)));
        let mut ticket = self.queue.enter(class, entry)?;
        if let Some((places, model)) = noted {
            let arrival = arrival(request, Some(&model), now);
            places.note(model, arrival);
        }
        match Pin::new(&mut ticket).poll(cx) {
            Poll::Ready(permit) => self.lease(permit?, since, None, wait, request, cx),
            Poll::Pending => {
                report_queue_place(request, &ticket);
                let timer = WaitTimer::since(now, request, |outcome, time| {
                    outcome.queued = Some(outcome.queued.unwrap_or_default() + time);
                });
                let since = since.unwrap_or(now);
                *wait = Wait::Slot(Box::new(ticket), timer, since);
                Poll::Pending
            }
        }
    }

    /// Goes back to the place in the queue that the request had.
    fn enter_again(
        &self,
        since: Instant,
        wait: &mut Wait<S>,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        let (class, _) = self.class_of(request);
        let arrived = arrival(request, class.model.as_ref(), since);
        let entry = self.entry(&class, request);
        let entry = entry.with_arrival(arrived).with_place_kept();
        let entry = entry.with_entered(since);
        self.enter(class, entry, Some(since), wait, request, cx)
    }

    /// Leases the slot, if gateways share it, and tells them of the load.
    fn lease(
        &self,
        permit: queue::Permit<Dispatcher<S>>,
        since: Option<Instant>,
        timer: Option<WaitTimer>,
        wait: &mut Wait<S>,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        let slot = permit.slot();
        let chosen = slot.line.map(|line| line.now).or(since);
        let load = slot.flight();
        let load = load.and_then(|flight| self.load_to_begin(flight, slot.member(), chosen));
        let lease = self.to_lease(slot);
        if lease.is_none() && load.is_none() {
            return Poll::Ready(Ok(self.chosen(permit, request)));
        }
        let since = since.or(chosen).unwrap_or_else(Instant::now);
        let leasing = Leasing::start(ToTake { lease, load }, permit, since, timer);
        *wait = Wait::Lease(Box::new(leasing));
        self.poll_choose(wait, request, cx)
    }
}

impl<S> Fleet<S> {
    /// The service of the backend whose slot the queue has assigned.
    fn chosen(
        &self,
        permit: queue::Permit<Dispatcher<S>>,
        request: &mut Parts,
    ) -> Choice<Observed<S>, Box<Permit<S>>>
    where
        S: Clone,
    {
        let slot = permit.slot();
        let member = slot.member();
        let (flight, client) = (slot.flight().cloned(), permit.key().as_ref());
        let service = Observed::new(member, flight, &self.queue, client);
        if let Some(token) = slot.take_token() {
            Breaker::put_token(&mut request.extensions, token);
        }
        if let Some(flight) = slot.flight() {
            self.log_choice(&member.backend, flight);
        }
        let choice = slot
            .flight()
            .map(|flight| LatestChoice::new(flight.grant()));
        let record = Record::of(&request.extensions).cloned();
        let attempts = Attempts::of(&request.extensions);
        record_choice(&member.backend, choice, attempts, record.as_ref());
        if let Some(attempts) = attempts {
            attempts.record_untried(slot.left);
        }
        let parsed = LlmRequest::of(&request.extensions);
        let body_bytes = body_bytes(parsed);
        if let Some(sent) = parsed.and_then(|parsed| self.num_ctx_to_send(slot.flight(), parsed)) {
            request.extensions.insert(sent);
        }
        if slot.flight().is_some_and(Flight::may_load) {
            request.extensions.insert(MayLoad);
        }
        let rules = member.backend.rules();
        if slot
            .flight()
            .is_some_and(|flight| rules.is_pinned(flight.model()))
        {
            request.extensions.insert(KeepInMemory);
        }
        let accounting = Accounting {
            record,
            body_bytes,
            estimates: self.estimates.clone(),
        };
        let permit = Permit::queued(permit, accounting);
        Choice {
            service,
            slot: Box::new(permit),
        }
    }

    /// The `num_ctx` to send to the chosen backend, if it is not that of the request.
    fn num_ctx_to_send(&self, flight: Option<&Flight>, parsed: &LlmRequest) -> Option<SentNumCtx> {
        let num_ctx = match flight {
            Some(flight) => flight.num_ctx(),
            None => self.config.context.asked(parsed),
        };
        (num_ctx != parsed.num_ctx || parsed.places.corrects_num_ctx())
            .then_some(SentNumCtx(num_ctx))
    }

    /// Waits until the catalogue can know a model: first until every backend was probed once, then
    /// until all were probed again.
    pub(super) fn await_model(&self, model: ModelName) -> impl Future<Output = ()> + use<S> {
        let (catalogue, limit) = (self.catalogue.clone(), self.config.clocks.timeout);
        async move {
            let deadline = Instant::now() + limit;
            let _ = timeout_at(deadline, catalogue.probed_once()).await;
            if catalogue.members().holders(&model).is_empty() {
                let _ = timeout_at(deadline, catalogue.refreshed()).await;
            }
        }
    }

    /// Refuses a request for a model that no backend has, if a server that must not serve it could
    /// be asked otherwise.
    fn check_allowed(&self, class: &Class, request: &Parts) -> Result<(), Failure> {
        let members = self.catalogue.members();
        if let Some(cordoned) = members.only_cordoned(class.model.as_ref()) {
            return Err(cordoned.into());
        }
        let is_withheld = |model| members.is_withheld(model);
        if !class.model.as_ref().is_some_and(is_withheld) {
            return Ok(());
        }
        let model = model_of(request).unwrap_or_default();
        let embeds = LlmRequest::of(&request.extensions).is_some_and(|request| {
            request.dialect == Dialect::Ollama && request.operation == Operation::Embed
        });
        let missing = match embeds {
            true => ModelNotFound::to_embed(model),
            false => ModelNotFound::new(model),
        };
        Err(missing.into())
    }

    /// The queue's class of a request, and whether a backend has its model.
    fn class_of(&self, request: &Parts) -> (Class, bool) {
        let members = self.catalogue.members();
        let route = RouteMatch::of(&request.extensions).and_then(RouteMatch::operation);
        let model = model_of(request).and_then(|model| members.name(model));
        let is_known = |model| !members.holders(model).is_empty();
        let is_known = model.as_ref().is_some_and(is_known);
        let class = Class {
            model,
            runs_model: route.is_some_and(|operation| operation.is_inference()),
        };
        (class, is_known)
    }

    /// What a request needs of its backend.
    pub(super) fn need(
        &self,
        expected: Expected,
        parsed: Option<&LlmRequest>,
        attempts: Option<&Attempts>,
    ) -> Need {
        Need {
            attempts: attempts.cloned(),
            prompt_tokens: expected.prompt_tokens,
            output_tokens: expected.output_tokens,
            num_ctx: parsed.and_then(|request| self.config.context.asked(request)),
            may_change_num_ctx: parsed
                .is_some_and(|request| self.config.context.may_change(request)),
            prefix: parsed
                .map(|request| request.prefix.clone())
                .unwrap_or_default(),
            streams: parsed.is_some_and(|request| request.stream),
        }
    }

    /// The queue entry of a request.
    fn entry(&self, class: &Class, request: &Parts) -> Entry<Option<Client>, Need> {
        let client = Client::of(request);
        let model = class.model.as_ref();
        let parsed = LlmRequest::of(&request.extensions);
        let expected = self
            .estimates
            .expected(model, client.as_ref(), body_bytes(parsed));
        let share = self.config.share_of(client.as_ref());
        let need = self.need(expected, parsed, Attempts::of(&request.extensions));
        let attempts = need.attempts.as_ref();
        // It has left the queue, and is back.
        let first_arrival = Places::arrival(&request.extensions, model);
        let arrival = first_arrival.or_else(|| attempts.map(Attempts::started));
        let is_retry = attempts.is_some_and(|attempts| attempts.number() > 1);
        let is_identified = client.as_ref().is_some_and(Client::is_identified);
        let entry = Entry::new(client, need)
            .with_shared_key(!is_identified)
            .with_cost(expected.cost())
            .with_weight(share.weight)
            .with_priority(share.priority);
        let entry = match arrival {
            Some(arrival) => entry.with_arrival(arrival),
            None => entry,
        };
        match is_retry || first_arrival.is_some() {
            true => entry.with_place_kept(),
            false => entry,
        }
    }
}

pub(super) fn record_choice(
    backend: &Backend,
    choice: Option<LatestChoice>,
    attempts: Option<&Attempts>,
    record: Option<&Record>,
) {
    let name = backend.name();
    if let Some(attempts) = attempts {
        attempts.record_backend(name.clone());
    }
    let Some(record) = record else {
        return;
    };
    record.update(|outcome| {
        outcome.backend = Some(name.clone());
        outcome.attempts += 1;
        match choice {
            Some(choice) => choice.put_into(outcome),
            None => outcome.choice = None,
        }
    });
}

/// Puts the place in the queue into the heartbeat's text, if the request has one.
fn report_queue_place<S>(request: &Parts, ticket: &Ticket<Dispatcher<S>>)
where
    S: Clone + Send + Sync + 'static,
{
    let waiting = WaitingText::of(&request.extensions);
    if let Some((waiting, watch)) = waiting.zip(ticket.watch()) {
        waiting.set_description(move || watch.queue_position().map(queue_place_text));
    }
}

fn queue_place_text(queue_position: QueuePosition) -> String {
    let ahead = queue_position.ahead;
    let place = format!("waiting in the queue, requests before this one: {ahead}");
    match queue_position.expected_wait {
        Some(wait) => format!("{place}, expected wait: {} s", wait.as_secs_f64().ceil()),
        None => place,
    }
}

/// The length of the request's prompt for estimates, if it was scanned; else 0.
pub(super) fn body_bytes(parsed: Option<&LlmRequest>) -> u64 {
    parsed.map_or(0, |parsed| parsed.prompt_bytes)
}

/// The model name in the body or the path, as written by the client.
pub(super) fn model_of(request: &Parts) -> Option<&str> {
    let extensions = &request.extensions;
    let in_body = LlmRequest::of(extensions).and_then(|request| request.model.as_deref());
    let in_path = || match RouteMatch::of(extensions) {
        Some(RouteMatch::Found { parameter, .. }) => parameter.as_deref(),
        _ => None,
    };
    in_body.or_else(in_path)
}
