//! State that a socket and the service on its connection share.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// hyper was given bytes that the socket has not flushed.
const UNFLUSHED: u8 = 0;
/// The same, and a task waits for the flush.
const AWAITED: u8 = 1;
/// Everything that hyper was given has been flushed.
const FLUSHED: u8 = 2;

/// State of a [`ClientSocket`](crate::ClientSocket), shared with the service on its connection. A
/// clone refers to the same socket.
#[derive(Clone, Debug)]
pub struct SocketState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    write_stall_timeout: Option<Duration>,
    flush: AtomicU8,
    waiter: Mutex<Option<Waker>>,
    write_pending: AtomicBool,
    write_failed: AtomicBool,
    peer_closed: AtomicBool,
    answering: AtomicBool,
}

impl SocketState {
    pub(crate) fn new(write_stall_timeout: Option<Duration>) -> Self {
        Self(Arc::new(Shared {
            write_stall_timeout,
            flush: AtomicU8::new(FLUSHED),
            waiter: Mutex::new(None),
            write_pending: AtomicBool::new(false),
            write_failed: AtomicBool::new(false),
            peer_closed: AtomicBool::new(false),
            answering: AtomicBool::new(false),
        }))
    }

    /// The longest time that a write may be pending without progress.
    pub fn write_stall_timeout(&self) -> Option<Duration> {
        self.0.write_stall_timeout
    }

    /// Whether everything that hyper was given has been flushed, as far as
    /// [`set_unflushed`](Self::set_unflushed) was called.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        self.0.flush.load(Acquire) == FLUSHED
    }

    /// Records that hyper is given bytes: a response's head, a piece of its body or its end.
    /// [`ConnectionBody`](crate::ConnectionBody) calls this for the body.
    #[inline]
    pub fn set_unflushed(&self) {
        if self.is_flushed() {
            self.0.flush.store(UNFLUSHED, Relaxed);
        }
    }

    /// Ready when everything has been flushed. Only one task may wait at a time.
    pub(crate) fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_flushed() {
            return Poll::Ready(());
        }
        *self.waiter() = Some(cx.waker().clone());
        let flush = &self.0.flush;
        // The flush may have happened in another thread in the meantime.
        match flush.compare_exchange(UNFLUSHED, AWAITED, AcqRel, Acquire) {
            Err(FLUSHED) => {
                self.forget_waiter();
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }

    /// Drops the waker of the task that waits for the flush. The waker may own this state, and neither
    /// would be freed if the flush never came.
    fn forget_waiter(&self) {
        let waiter = self.waiter().take();
        drop(waiter);
    }

    #[inline]
    pub(crate) fn set_flushed(&self) {
        if !self.is_flushed() && self.0.flush.swap(FLUSHED, AcqRel) == AWAITED {
            let waiter = self.waiter().take();
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }
    }

    fn waiter(&self) -> MutexGuard<'_, Option<Waker>> {
        let waiter = self.0.waiter.lock();
        waiter.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write waits for the client. The socket's time-out runs as long as this is true.
    pub fn is_write_pending(&self) -> bool {
        self.0.write_pending.load(Relaxed)
    }

    pub(crate) fn set_write_pending(&self, value: bool) {
        self.0.write_pending.store(value, Relaxed);
    }

    /// Whether a write has failed, also by the time-out.
    pub fn has_write_failed(&self) -> bool {
        self.0.write_failed.load(Relaxed)
    }

    pub(crate) fn set_write_failed(&self) {
        self.0.write_failed.store(true, Relaxed);
    }

    /// Whether the client has closed its side of the connection.
    pub fn has_peer_closed(&self) -> bool {
        self.0.peer_closed.load(Relaxed)
    }

    pub(crate) fn set_peer_closed(&self) {
        self.0.peer_closed.store(true, Relaxed);
    }

    /// Whether a request is being answered. While this is true and hyper does not read, the socket
    /// reads ahead, and fails when the client has closed its side.
    pub fn is_answering(&self) -> bool {
        self.0.answering.load(Relaxed)
    }

    /// Sets [`is_answering`](Self::is_answering). [`ConnectionLayer`](crate::ConnectionLayer) and
    /// [`ConnectionBody`](crate::ConnectionBody) call this.
    pub fn set_answering(&self, value: bool) {
        self.0.answering.store(value, Relaxed);
    }
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Exchange(SocketState);

impl Exchange {
    pub(crate) fn begin(state: SocketState) -> Self {
        state.set_answering(true);
        Self(state)
    }

    pub(crate) fn state(&self) -> &SocketState {
        &self.0
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.set_answering(false);
        if self.0.0.flush.load(Acquire) == AWAITED {
            self.0.forget_waiter();
        }
    }
}
