//! A position in the queue, which becomes a permit.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::machine::Position;
use super::queue::{Shared, Wait};
use super::{Dispatch, Permit, QueuePosition};
use crate::{BoxError, Deadline};

/// A position in the queue: a future of the [`Permit`]. If a slot was free, it is ready at its
/// first poll.
///
/// Dropping it leaves the queue at once; a slot that was just granted goes to the next waiter. Its
/// errors are [`QueueTimeout`](super::QueueTimeout), as a [`Failure`](crate::Failure), and the
/// errors of [`Dispatch::try_take`].
#[must_use = "a ticket that is dropped leaves the queue"]
pub struct Ticket<D: Dispatch> {
    state: State<D>,
    timer: Deadline,
}

// No field is pinned.
impl<D: Dispatch> Unpin for Ticket<D> {}

enum State<D: Dispatch> {
    Granted(Permit<D>),
    Waiting(Wait<D>),
    Done,
}

impl<D: Dispatch> Ticket<D> {
    pub(super) fn granted(permit: Permit<D>) -> Self {
        Self {
            state: State::Granted(permit),
            timer: Deadline::default(),
        }
    }

    pub(super) fn waiting(wait: Wait<D>, deadline: Option<Instant>) -> Self {
        let mut timer = Deadline::default();
        timer.arm(deadline);
        Self {
            state: State::Waiting(wait),
            timer,
        }
    }

    /// A handle to observe the wait. `None` if the ticket does not wait.
    pub fn watch(&self) -> Option<TicketWatch<D>> {
        match &self.state {
            State::Waiting(wait) => Some(TicketWatch {
                shared: wait.shared().clone(),
                class: wait.class.clone(),
                position: wait.position.clone(),
            }),
            State::Granted(_) | State::Done => None,
        }
    }
}

impl<D: Dispatch> Future for Ticket<D> {
    type Output = Result<Permit<D>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Waiting(wait) = &mut this.state {
            let answer = match wait.poll(cx) {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    ready!(this.timer.poll(cx));
                    wait.time_out()
                }
            };
            this.state = State::Done;
            return Poll::Ready(answer);
        }
        match std::mem::replace(&mut this.state, State::Done) {
            State::Granted(permit) => Poll::Ready(Ok(permit)),
            State::Waiting(_) | State::Done => Poll::Pending,
        }
    }
}

impl<D: Dispatch> fmt::Debug for Ticket<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Granted(_) => "granted",
            State::Waiting(_) => "waiting",
            State::Done => "done",
        };
        f.debug_tuple("Ticket").field(&state).finish()
    }
}

/// A handle to observe a waiting ticket. It holds no position in the queue.
pub struct TicketWatch<D: Dispatch> {
    shared: Arc<Shared<D>>,
    class: D::Class,
    position: Position<D::Key>,
}

impl<D: Dispatch> TicketWatch<D> {
    /// The position of the ticket; `None` if it no longer waits.
    pub fn queue_position(&self) -> Option<QueuePosition> {
        self.shared.queue_position(&self.class, &self.position)
    }
}

impl<D: Dispatch> Clone for TicketWatch<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            class: self.class.clone(),
            position: self.position.clone(),
        }
    }
}

impl<D: Dispatch> fmt::Debug for TicketWatch<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TicketWatch")
            .field(&self.queue_position())
            .finish()
    }
}
