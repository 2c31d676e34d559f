//! What a connection's halves share: a waker of its own, and whether a request has begun.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake};

use futures_util::task::AtomicWaker;
use llamatower_layers::BoxError;

/// Wakes the task that waits for a connection, and remembers that the connection has work.
///
/// The connection and the reader of its answer are polled by one task. With that task's own waker
/// each of them would wake it for what the other has just done, once for each line of a stream: a
/// poll of everything above, in vain.
#[derive(Debug)]
pub(super) struct ConnectionState {
    has_work: AtomicBool,
    task: AtomicWaker,
    is_unsent: AtomicBool,
    dial_error: Mutex<Option<BoxError>>,
}

impl ConnectionState {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            has_work: AtomicBool::new(true),
            task: AtomicWaker::new(),
            is_unsent: AtomicBool::new(false),
            dial_error: Mutex::default(),
        })
    }

    /// Whether the connection has work, which is about to be done.
    pub(super) fn take_work(&self) -> bool {
        self.has_work.swap(false, Ordering::AcqRel)
    }

    /// Wakes the task of `cx` when there is work. To be called last: what is noted while the
    /// task polls the connection and takes what it has read is mostly that it did so.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
        if self.has_work.load(Ordering::Acquire) {
            cx.waker().wake_by_ref();
        }
    }

    /// A request is handed to the connection, which waited in the pool before if `is_reused`.
    pub(super) fn begin(&self, is_reused: bool) {
        self.is_unsent.store(is_reused, Ordering::Relaxed);
        self.has_work.store(true, Ordering::Release);
    }

    /// Marks the request as begun. True the first time on a connection from the pool: to dial again is
    /// still safe.
    pub(super) fn take_unsent(&self) -> bool {
        self.is_unsent.load(Ordering::Relaxed) && self.is_unsent.swap(false, Ordering::Relaxed)
    }
}

impl ConnectionState {
    /// The connection that was to replace a dead one could not be opened.
    pub(super) fn note_dial_error(&self, error: BoxError) {
        *self.dial_error() = Some(error);
    }

    /// Why that was so, for the first that asks.
    pub(super) fn take_dial_error(&self) -> Option<BoxError> {
        self.dial_error().take()
    }

    fn dial_error(&self) -> MutexGuard<'_, Option<BoxError>> {
        self.dial_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for ConnectionState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_work.store(true, Ordering::Release);
        self.task.wake();
    }
}
