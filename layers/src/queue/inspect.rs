//! What can be seen of the queue, and the end of a wait by another than its client.

use tokio::time::Instant;

use super::queue::{Shared, TicketState, Wakers};
use super::{ClassSnapshot, Dispatch, Line, Queue, WaiterSnapshot};
use crate::BoxError;

impl<D: Dispatch> Queue<D> {
    /// The number of waiting requests of all classes.
    pub fn waiting(&self) -> usize {
        self.shared.state().class_queues.waiting()
    }

    /// Snapshots of all classes in use and those that are still remembered, in no order.
    pub fn snapshot(&self) -> Vec<ClassSnapshot<D::Class>> {
        let now = Instant::now();
        self.shared.state().class_queues.snapshot(now)
    }

    /// A snapshot of one class, if the class is known.
    pub fn class(&self, class: &D::Class) -> Option<ClassSnapshot<D::Class>> {
        let now = Instant::now();
        self.shared.state().class_queues.class_snapshot(now, class)
    }

    /// The `most` waiters that arrived first, of all classes, in the order of their arrival.
    pub fn waiters(&self, most: usize) -> Vec<WaiterSnapshot<D::Class, D::Key>> {
        let now = Instant::now();
        self.shared.state().class_queues.waiters(now, most)
    }

    /// The line of the waiter that is next in a class; `None` if none waits.
    pub fn next_line(&self, class: &D::Class) -> Option<Line> {
        let now = Instant::now();
        self.shared.state().class_queues.next_line(now, class)
    }

    /// Ends the wait of a request with an error, by the number of its [`WaiterSnapshot`]. Returns
    /// whether it was waiting.
    pub fn cancel(&self, id: u64, error: impl Into<BoxError>) -> bool {
        self.shared.cancel(id, error.into())
    }
}

impl<D: Dispatch> Shared<D> {
    fn cancel(&self, id: u64, error: BoxError) -> bool {
        let mut wakers = Wakers(Vec::new());
        let mut state = self.state();
        let Some((class, position)) = state.class_queues.find(id) else {
            return false;
        };
        if state.class_queues.remove(&class, &position).is_none() {
            return false;
        }
        let before = state.tickets.insert(id, TicketState::Refused(error));
        if let Some(TicketState::Waiting(Some(waker))) = before {
            wakers.0.push(waker);
        }
        self.report_waiting(&state, &class);
        // A waiter behind may be able to use a slot that this one could not.
        self.hand_out_under(&mut state, &mut wakers);
        true
    }
}
