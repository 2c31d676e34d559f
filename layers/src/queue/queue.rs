//! The queue: the class queues under their lock, and the wakers of the waiters.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::HashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::entry::Entry;
use super::machine::{Charge, ClassQueues, Finished, Passing, Position, Rules};
use super::{Line, Permit, QueueLimitNames, QueuePosition, QueueTimeout, Ticket};
use crate::{BoxError, Failure};

/// Hands out slots. The queue chooses which waiter is next.
///
/// [`try_take`](Self::try_take) is called under the queue's lock, for one waiter after the other,
/// so two requests never get the same free slot. Its methods must be fast, must not block, and must
/// not call the queue.
///
/// The queue asks again when a [`Permit`] is dropped. When a slot becomes free in another way, for
/// example because a backend is back, call [`Queue::slots_changed`]; otherwise the waiters continue
/// to wait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` hands out no slots to a queue",
    label = "not a `Dispatch`",
    note = "use `SlotPool` for a fixed number of slots, or implement `Dispatch` for it"
)]
pub trait Dispatch {
    /// Requests that use the same slots and are counted together, for example by model.
    type Class: Clone + Eq + Hash;
    /// The unit of fairness: keys get equal shares. For example the tenant.
    type Key: Clone + Eq + Hash;
    /// The data that the choice of a slot needs.
    type Request;
    /// A slot. Dropping it releases it; the queue never drops it under its lock.
    type Slot;

    /// Takes a slot for a request, if one is free. `None` means that no slot is free for the whole
    /// class. If two requests can use different slots, give them different classes, or see
    /// [`may_be_passed`](Self::may_be_passed).
    ///
    /// `line` says how many requests of the class wait, and how long this one has waited.
    ///
    /// # Errors
    /// There will never be a slot for this request. It leaves the queue with this error.
    fn try_take(
        &self,
        class: &Self::Class,
        request: &Self::Request,
        line: Line,
    ) -> Result<Option<Self::Slot>, BoxError>;

    /// Whether a request can use only some of the slots of its class, for example because it has failed
    /// at a backend. If there is none for it and it is the first one of its class, it waits, and the next
    /// request that [can pass](Self::can_pass) it is asked with [`try_take_past`](Self::try_take_past).
    ///
    /// It must not change while the request waits. By default no request may be passed.
    fn may_be_passed(&self, request: &Self::Request) -> bool {
        let _ = request;
        false
    }

    /// Whether a request can use slots that `first`, which may be passed, cannot use. It must not change
    /// while both wait. By default a request can that may not be passed itself.
    fn can_pass(&self, first: &Self::Request, request: &Self::Request) -> bool {
        let _ = first;
        !self.may_be_passed(request)
    }

    /// As [`try_take`](Self::try_take), but the slot must be one that `first` cannot use: that request
    /// is before this one, and keeps its place for the next slot that it can use. The default has none.
    ///
    /// # Errors
    /// There will never be a slot for this request. It leaves the queue with this error.
    fn try_take_past(
        &self,
        class: &Self::Class,
        first: &Self::Request,
        request: &Self::Request,
        line: Line,
    ) -> Result<Option<Self::Slot>, BoxError> {
        let _ = (class, first, request, line);
        Ok(None)
    }

    /// The number of slots of a class, held or free, that serve its waiters: those too that cannot be
    /// used yet, because the backend is about to be ready for them. Waits are predicted by it.
    ///
    /// By default `None`: as many as are held.
    fn slots(&self, class: &Self::Class) -> Option<usize> {
        let _ = class;
        None
    }

    /// The number of waiters of a class has changed to `waiting`.
    ///
    /// It is called once for each request that begins to wait and for each that stops waiting:
    /// because it got a slot or an error, was dropped, or reached its deadline. A request that gets
    /// a slot at once does not wait. The default does nothing.
    fn waiting_changed(&self, class: &Self::Class, waiting: usize) {
        let _ = (class, waiting);
    }
}

/// A wait queue for a service with limited slots. See the [module](super).
///
/// Clones share the same queue.
pub struct Queue<D: Dispatch> {
    pub(super) shared: Arc<Shared<D>>,
}

impl<D: Dispatch> Queue<D> {
    /// A queue for the slots of `dispatch`.
    pub fn new(dispatch: D) -> Self {
        let state = State {
            class_queues: ClassQueues::new(Rules::default()),
            tickets: HashMap::default(),
        };
        Self {
            shared: Arc::new(Shared {
                dispatch,
                state: Mutex::new(state),
                has_new_keys: Notify::new(),
            }),
        }
    }

    /// The maximum number of waiting requests of one class; default 512, as in Ollama.
    pub fn with_max_waiting(self, requests: usize) -> Self {
        self.with_rules(|rules| rules.max_waiting = requests)
    }

    /// The maximum number of waiting requests of one key in one class; by default not limited.
    pub fn with_max_waiting_per_key(self, requests: Option<usize>) -> Self {
        self.with_rules(|rules| rules.max_waiting_per_key = requests)
    }

    /// The maximum predicted wait; a request beyond it is refused at once. Default 5 minutes.
    ///
    /// Fewer waiting requests than there are slots ([`Dispatch::slots`]) are never refused by it, and
    /// none is before four slots were released, unless a service time is
    /// [assumed](Self::with_assumed_service_time).
    pub fn with_max_predicted_wait(self, wait: Option<Duration>) -> Self {
        self.with_rules(|rules| rules.max_predicted_wait = wait)
    }

    /// The maximum real wait; a request that reaches it is refused. Default 5 minutes.
    ///
    /// It counts from the entry into the queue, not from the arrival: the time of an earlier
    /// attempt does not count. A request that is back with its place has waited since its
    /// [first entry](Entry::with_entered).
    pub fn with_max_wait(self, wait: Option<Duration>) -> Self {
        self.with_rules(|rules| rules.max_wait = wait)
    }

    /// The wait after which a request rises by one priority, and from the highest priority to
    /// before all others. Default 30 s. `None` lets requests of high priority starve the others.
    ///
    /// It counts from the arrival, or from the last time another waiter of the same key and
    /// priority was served, if that is later: a key that gets its share does not age, however many
    /// waiters it has.
    pub fn with_ageing(self, step: Option<Duration>) -> Self {
        self.with_rules(|rules| rules.ageing = step)
    }

    /// The service time to assume for a class. Without it, waits are not predicted until the first
    /// slot was released. It counts less with each of the first four.
    pub fn with_assumed_service_time(self, time: Option<Duration>) -> Self {
        self.with_rules(|rules| rules.assumed_service = time)
    }

    /// The names of the limits in the texts of errors.
    pub fn with_limit_names(self, names: &'static QueueLimitNames) -> Self {
        self.with_rules(|rules| rules.names = names)
    }

    fn with_rules(self, change: impl FnOnce(&mut Rules)) -> Self {
        change(self.shared.state().class_queues.rules_mut());
        self
    }

    /// An empty queue with the same rules, for slots of another type.
    pub(super) fn with_dispatch<E: Dispatch>(&self, dispatch: impl FnOnce(&D) -> E) -> Queue<E> {
        let rules = *self.shared.state().class_queues.rules();
        Queue::new(dispatch(&self.shared.dispatch)).with_rules(|new| *new = rules)
    }

    /// Enters the queue. If no other request of the class waits and a slot is free, the ticket has
    /// its slot already and is ready at its first poll.
    ///
    /// # Errors
    /// [`QueueFull`](super::QueueFull) and [`KeyQueueFull`](super::KeyQueueFull), each as a
    /// [`Failure`], and the errors of [`Dispatch::try_take`].
    pub fn enter(
        &self,
        class: D::Class,
        entry: Entry<D::Key, D::Request>,
    ) -> Result<Ticket<D>, BoxError> {
        let now = Instant::now();
        let shared = &self.shared;
        let mut wakers = Wakers(Vec::new());
        let mut guard = shared.state();
        let state = &mut *guard;
        let take = |request: &D::Request, line| shared.dispatch.try_take(&class, request, line);
        if let Some(slot) = state.class_queues.admit(now, &class, &entry, take)? {
            let has_new_keys = state.class_queues.take_has_new_keys();
            drop(guard);
            if has_new_keys {
                shared.has_new_keys.notify_one();
            }
            return Ok(Ticket::granted(self.permit(slot, class, entry, now)));
        }
        let (charge, own_deadline) = (entry.charge, entry.deadline);
        let entered = entry.entered_at(now);
        let slots = shared.dispatch.slots(&class);
        state.class_queues.set_slots(&class, slots);
        let (queues, passing) = (&state.class_queues, Dispatched(&shared.dispatch));
        let is_let_pass = queues.lets_pass(now, &class, &entry.request, &passing);
        let position = state.class_queues.push(now, &class, entry)?;
        let id = position.id;
        state.tickets.insert(id, TicketState::Waiting(None));
        shared.report_waiting(state, &class);
        if is_let_pass {
            // Nothing has changed for the other classes.
            shared.hand_out_to(state, Some(&class), &mut wakers);
        }
        let has_new_keys = state.class_queues.take_has_new_keys();
        let max_wait = state.class_queues.rules().max_wait;
        let latest = max_wait.and_then(|wait| entered.checked_add(wait));
        drop(guard);
        if has_new_keys {
            shared.has_new_keys.notify_one();
        }
        let deadline = latest.into_iter().chain(own_deadline).min();
        let wait = Wait {
            shared: shared.clone(),
            class,
            position,
            charge,
            entered,
            has_left: false,
        };
        Ok(Ticket::waiting(wait, deadline))
    }

    fn permit(
        &self,
        slot: D::Slot,
        class: D::Class,
        entry: Entry<D::Key, D::Request>,
        since: Instant,
    ) -> Permit<D> {
        let holder = Holder::new(class, entry.key, entry.charge);
        Permit::new(self.shared.clone(), slot, holder, since)
    }

    /// Offers slots to the waiters. Call it when slots may have become free.
    pub fn slots_changed(&self) {
        self.shared.hand_out();
    }

    /// The dispatcher that hands out the slots.
    pub fn dispatch(&self) -> &D {
        &self.shared.dispatch
    }

    /// The number of tickets with a state in memory.
    #[cfg(test)]
    pub(super) fn tickets_in_memory(&self) -> usize {
        self.shared.state().tickets.len()
    }
}

impl<D: Dispatch> Clone for Queue<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<D: Dispatch> fmt::Debug for Queue<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

pub(super) struct Shared<D: Dispatch> {
    dispatch: D,
    state: Mutex<State<D>>,
    pub(super) has_new_keys: Notify,
}

pub(super) struct State<D: Dispatch> {
    pub(super) class_queues: ClassQueues<D::Class, D::Key, D::Request>,
    /// The state of each waiting ticket.
    pub(super) tickets: HashMap<u64, TicketState<D::Slot>>,
}

pub(super) enum TicketState<S> {
    Waiting(Option<Waker>),
    Granted(S, Instant),
    Refused(BoxError),
}

/// The rules of a dispatcher for waiters that pass others.
struct Dispatched<'a, D>(&'a D);

impl<D: Dispatch> Passing<D::Request> for Dispatched<'_, D> {
    fn may_be_passed(&self, request: &D::Request) -> bool {
        self.0.may_be_passed(request)
    }

    fn can_pass(&self, first: &D::Request, request: &D::Request) -> bool {
        self.0.can_pass(first, request)
    }
}

/// Wakes the wakers on drop, which is after the lock was released, because a waker can run any
/// code. It also wakes them if a dispatcher panics, because a granted slot must be picked up.
pub(super) struct Wakers(pub(super) Vec<Waker>);

impl Drop for Wakers {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

impl<D: Dispatch> Shared<D> {
    pub(super) fn state(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(&self) {
        // Declared before the lock, so that it is dropped after the lock.
        let mut wakers = Wakers(Vec::new());
        let mut state = self.state();
        self.hand_out_under(&mut state, &mut wakers);
    }

    pub(super) fn hand_out_under(&self, state: &mut State<D>, wakers: &mut Wakers) {
        self.hand_out_to(state, None, wakers);
    }

    /// Offers slots to the waiters of one class, or of all.
    fn hand_out_to(&self, state: &mut State<D>, only: Option<&D::Class>, wakers: &mut Wakers) {
        let State {
            class_queues,
            tickets,
        } = state;
        if class_queues.waiting() == 0 {
            return;
        }
        let now = Instant::now();
        class_queues.hand_out_past(
            now,
            only,
            &Dispatched(&self.dispatch),
            |class, request, first, line| match first {
                Some(first) => self.dispatch.try_take_past(class, first, request, line),
                None => self.dispatch.try_take(class, request, line),
            },
            |delivery| {
                let answer = match delivery.answer {
                    Ok(slot) => TicketState::Granted(slot, now),
                    Err(error) => TicketState::Refused(error),
                };
                let before = tickets.insert(delivery.waiter.id, answer);
                if let Some(TicketState::Waiting(Some(waker))) = before {
                    wakers.0.push(waker);
                }
                self.dispatch
                    .waiting_changed(delivery.class, delivery.waiting);
            },
        );
    }

    pub(super) fn report_waiting(&self, state: &State<D>, class: &D::Class) {
        let waiting = state.class_queues.waiting_of(class);
        self.dispatch.waiting_changed(class, waiting);
    }

    /// Counts a released slot, and offers slots to the waiters.
    pub(super) fn finish(&self, holder: &Holder<D>, finished: Finished) {
        let mut wakers = Wakers(Vec::new());
        let mut state = self.state();
        let Holder { class, key, charge } = holder;
        state.class_queues.finish(class, key, *charge, finished);
        self.hand_out_under(&mut state, &mut wakers);
    }

    pub(super) fn queue_position(
        &self,
        class: &D::Class,
        position: &Position<D::Key>,
    ) -> Option<QueuePosition> {
        let now = Instant::now();
        let state = self.state();
        state.class_queues.queue_position(now, class, position)
    }
}

/// The holder of a slot.
pub(super) struct Holder<D: Dispatch> {
    pub(super) class: D::Class,
    pub(super) key: D::Key,
    pub(super) charge: Charge,
}

impl<D: Dispatch> Holder<D> {
    fn new(class: D::Class, key: D::Key, charge: Charge) -> Self {
        Self { class, key, charge }
    }
}

/// The wait for a slot. Dropping it leaves the queue and passes on a slot that was just granted.
pub(super) struct Wait<D: Dispatch> {
    shared: Arc<Shared<D>>,
    pub(super) class: D::Class,
    pub(super) position: Position<D::Key>,
    charge: Charge,
    entered: Instant,
    has_left: bool,
}

impl<D: Dispatch> Wait<D> {
    pub(super) fn shared(&self) -> &Arc<Shared<D>> {
        &self.shared
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Permit<D>, BoxError>> {
        let mut state = self.shared.state();
        if let Some(TicketState::Waiting(waker)) = state.tickets.get_mut(&self.position.id) {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let ticket_state = state.tickets.remove(&self.position.id);
        drop(state);
        self.has_left = true;
        Poll::Ready(match ticket_state {
            Some(TicketState::Granted(slot, since)) => Ok(self.permit(slot, since)),
            Some(TicketState::Refused(error)) => Err(error),
            Some(TicketState::Waiting(_)) | None => Err(self.timeout()),
        })
    }

    /// Ends the wait at its deadline. A slot that was granted in the meantime is used.
    pub(super) fn time_out(&mut self) -> Result<Permit<D>, BoxError> {
        match self.leave() {
            Some(TicketState::Granted(slot, since)) => Ok(self.permit(slot, since)),
            Some(TicketState::Refused(error)) => Err(error),
            Some(TicketState::Waiting(_)) | None => Err(self.timeout()),
        }
    }

    fn permit(&self, slot: D::Slot, since: Instant) -> Permit<D> {
        let holder = Holder::new(self.class.clone(), self.position.key.clone(), self.charge);
        Permit::new(self.shared.clone(), slot, holder, since)
    }

    fn timeout(&self) -> BoxError {
        let now = Instant::now();
        let class_queues = &self.shared.state().class_queues;
        let class = class_queues.class_snapshot(now, &self.class);
        let next = class.and_then(|class| class.predicted_wait);
        let (waited, rules) = (self.entered.elapsed(), class_queues.rules());
        let is_limit = rules.max_wait.is_some_and(|max| waited >= max);
        Failure::from(QueueTimeout {
            waited,
            limit_name: is_limit.then_some(rules.names.max_wait),
            retry_after: next.unwrap_or_default().max(Duration::from_secs(1)),
        })
        .into()
    }

    fn leave(&mut self) -> Option<TicketState<D::Slot>> {
        if std::mem::replace(&mut self.has_left, true) {
            return None;
        }
        let mut wakers = Wakers(Vec::new());
        let mut state = self.shared.state();
        let ticket_state = state.tickets.remove(&self.position.id);
        let waiter = state.class_queues.remove(&self.class, &self.position);
        if waiter.is_some() {
            self.shared.report_waiting(&state, &self.class);
            // A waiter behind may be able to use a slot that this one could not.
            self.shared.hand_out_under(&mut state, &mut wakers);
        }
        ticket_state
    }
}

impl<D: Dispatch> Drop for Wait<D> {
    fn drop(&mut self) {
        if let Some(TicketState::Granted(slot, since)) = self.leave() {
            self.permit(slot, since).unused();
        }
    }
}
