//! A request's body on its way from the connection to whoever reads it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// One piece at a time, and only when it is asked for: a client is not read faster than its body
/// is wanted. For bodies that have not come with their head.
#[derive(Debug)]
pub(super) struct Inbox {
    slot: Mutex<Slot>,
    /// The connection's task, which reads.
    connection: Waker,
}

#[derive(Debug, Default)]
struct Slot {
    data: Bytes,
    is_wanted: bool,
    end: Option<io::Result<()>>,
    reader: Option<Waker>,
    is_left: bool,
}

/// What a connection is to do for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing for now.
    Nothing,
    /// Read some more.
    More,
    /// Nobody reads it any more.
    Left,
}

impl Inbox {
    /// An inbox with what has come already.
    pub(super) fn new(data: Bytes, connection: &Waker) -> Arc<Self> {
        Arc::new(Self {
            slot: Mutex::new(Slot {
                data,
                ..Slot::default()
            }),
            connection: connection.clone(),
        })
    }

    /// What came is no body.
    pub(super) fn fail(&self, error: io::Error) {
        self.slot().end = Some(Err(error));
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wish(&self) -> Wish {
        let slot = self.slot();
        match slot.is_left {
            true => Wish::Left,
            false if slot.is_wanted => Wish::More,
            false => Wish::Nothing,
        }
    }

    /// What the connection has read, and whether the body ends with it.
    pub(super) fn put(&self, data: Bytes, end: Option<io::Result<()>>) {
        let mut slot = self.slot();
        slot.is_wanted = data.is_empty() && end.is_none();
        slot.data = data;
        slot.end = end;
        let reader = slot.reader.take();
        drop(slot);
        // The connection's own task asks again by itself.
        if let Some(reader) = reader.filter(|reader| !reader.will_wake(&self.connection)) {
            reader.wake();
        }
    }

    /// The next piece.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut slot = self.slot();
        if !slot.data.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut slot.data))));
        }
        match &mut slot.end {
            Some(Ok(())) => Poll::Ready(None),
            // Whoever asks again shall not take what has come for the whole body.
            Some(Err(error)) => {
                let again = io::ErrorKind::BrokenPipe.into();
                Poll::Ready(Some(Err(std::mem::replace(error, again))))
            }
            None => {
                slot.is_wanted = true;
                slot.reader = Some(cx.waker().clone());
                drop(slot);
                self.wake_unless_polled_by(cx);
                Poll::Pending
            }
        }
    }

    fn wake_unless_polled_by(&self, cx: &Context<'_>) {
        if !self.connection.will_wake(cx.waker()) {
            self.connection.wake_by_ref();
        }
    }

    /// Whether all has come and was taken.
    pub(super) fn is_at_end(&self) -> bool {
        let slot = self.slot();
        slot.data.is_empty() && matches!(slot.end, Some(Ok(())))
    }

    /// Nobody will take any more.
    pub(super) fn leave(&self) {
        let mut slot = self.slot();
        slot.is_left = true;
        let has_come = slot.end.is_some();
        drop(slot);
        if !has_come {
            self.connection.wake_by_ref();
        }
    }
}
