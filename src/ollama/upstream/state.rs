//! State shared by a connection's parts: its waker, and whether a request was started.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake};

use futures_util::task::AtomicWaker;
use llamatower_layers::BoxError;

/// Wakes the task that waits for a connection, and records that the connection has work.
///
/// The connection and the reader of its response are polled by one task. With that task's own
/// waker, each would wake the task for what the other has just done, once for each line of a
/// stream: a useless poll of all layers above.
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

    /// Takes the mark that the connection has work.
    pub(super) fn take_work(&self) -> bool {
        self.has_work.swap(false, Ordering::AcqRel)
    }

    /// Wakes the task of `cx` when there is work. Call it last: most work that is recorded during
    /// the task's own poll is already done.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
        if self.has_work.load(Ordering::Acquire) {
            cx.waker().wake_by_ref();
        }
    }

    /// No task waits for the connection any more: a stored waker would keep the memory of the last one
    /// alive.
    pub(super) fn rest(&self) {
        self.task.take();
    }

    /// A request is given to the connection. `is_reused` means that the connection was in the pool
    /// before.
    pub(super) fn begin(&self, is_reused: bool) {
        self.is_unsent.store(is_reused, Ordering::Relaxed);
        self.has_work.store(true, Ordering::Release);
    }

    /// Marks the request as started. Returns true if nothing was sent yet on a pooled connection: a
    /// new connection is then still safe.
    pub(super) fn take_unsent(&self) -> bool {
        self.is_unsent.load(Ordering::Relaxed) && self.is_unsent.swap(false, Ordering::Relaxed)
    }
}

impl ConnectionState {
    /// Records why the replacement of a dead connection could not be opened.
    pub(super) fn note_dial_error(&self, error: BoxError) {
        *self.dial_error() = Some(error);
    }

    /// Takes that error.
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
