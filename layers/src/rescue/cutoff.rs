//! The moment at which everything under way ends.

use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::watch::Receiver;
use tokio::task::unconstrained;

/// A flag, and all who wait for it to turn true.
///
/// One future listens for everybody, so that to wait costs a place in a list. A future in a box
/// for each request would be made and thrown away by nearly all of them.
pub(super) struct Flag {
    /// It never takes note of a change: any is one that it has not seen.
    receiver: Receiver<bool>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Ready once the flag is true; there from the first on who waits.
    turned: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether `turned` will wake somebody.
    is_listening: bool,
    is_over: bool,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Flag {
    pub(super) fn new(receiver: Receiver<bool>) -> Arc<Self> {
        Arc::new(Self {
            receiver,
            waiting: Mutex::default(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(self: &Arc<Self>, waiting: &mut Waiting) -> bool {
        if !waiting.is_listening && !waiting.is_over {
            // A poll that were put off for the sake of other tasks would not register.
            let turned = waiting
                .turned
                .get_or_insert_with(|| Box::pin(unconstrained(turned(self.receiver.clone()))));
            let waker = Waker::from(Arc::new(Bell(Arc::downgrade(self))));
            waiting.is_over = turned
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready();
            waiting.is_listening = true;
        }
        waiting.is_over
    }
}

async fn turned(mut receiver: Receiver<bool>) {
    if receiver.wait_for(|is_over| *is_over).await.is_err() {
        // Nobody is left who could set it.
        pending::<()>().await;
    }
}

impl Waiting {
    /// A place for somebody new, or for the waker that follows the one in `place`.
    fn put(&mut self, place: Option<usize>, waker: Waker) -> (usize, Option<Waker>) {
        let place = place.or_else(|| self.free.pop());
        let place = place.unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        (place, self.wakers[place].replace(waker))
    }

    fn leave(&mut self, place: usize) -> Option<Waker> {
        self.free.push(place);
        self.wakers[place].take()
    }
}

/// What the flag wakes. It does not own the flag, which owns the future that owns this.
struct Bell(Weak<Flag>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let Some(flag) = self.0.upgrade() else {
            return;
        };
        let mut waiting = flag.waiting();
        waiting.is_listening = false;
        let wakers: Vec<_> = waiting.wakers.iter_mut().filter_map(Option::take).collect();
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Waits for a flag to turn true, at the cost of one atomic load a poll.
pub(super) struct Cutoff {
    flag: Arc<Flag>,
    place: Option<usize>,
    /// Whom the flag will wake.
    task: Option<Task>,
}

/// What two wakers of one task have in common. The flag keeps the waker, and with it the task, so
/// no other can take its address.
#[derive(PartialEq, Eq)]
struct Task(usize, usize);

impl Task {
    fn of(waker: &Waker) -> Self {
        let vtable: *const _ = waker.vtable();
        Self(waker.data().addr(), vtable.addr())
    }
}

impl Cutoff {
    pub(super) fn new(flag: Arc<Flag>) -> Self {
        Self {
            flag,
            place: None,
            task: None,
        }
    }

    /// To be called only while there is nothing else to do.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let task = Some(Task::of(cx.waker()));
        if self.task == task && !self.flag.receiver.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        let waker = cx.waker().clone();
        let mut waiting = self.flag.waiting();
        if self.flag.is_over(&mut waiting) {
            return Poll::Ready(());
        }
        let (place, _before) = waiting.put(self.place, waker);
        // A waker is dropped when the list is free again: it may be the last of its task.
        drop(waiting);
        self.place = Some(place);
        self.task = task;
        Poll::Pending
    }
}

impl Drop for Cutoff {
    fn drop(&mut self) {
        let _before = self
            .place
            .and_then(|place| self.flag.waiting().leave(place));
    }
}

impl fmt::Debug for Cutoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cutoff")
            .field(&*self.flag.receiver.borrow())
            .finish()
    }
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flag")
            .field(&*self.receiver.borrow())
            .finish()
    }
}
