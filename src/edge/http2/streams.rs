//! The streams of a connection, polled in its task.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream as _;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use llamatower_layers::Deadline;
use tokio::time::Instant;

use super::MAX_STREAMS;
use crate::edge::connection::Limits;
use crate::edge::state::ConnectionState;

/// Requests that a client may cancel before they are answered, within [`RESETS_WITHIN`]. An editor that
/// completes while its user types cancels a few each second.
pub(super) const MAX_RESETS: u32 = 200;
/// So many more after it was asked to leave: all that could be in flight.
const MAX_RESETS_AFTER: u32 = MAX_STREAMS;
/// See [`MAX_RESETS`].
const RESETS_WITHIN: Duration = Duration::from_secs(10);

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The streams of a connection.
pub(super) struct Streams {
    handle: StreamsHandle,
    tasks: FuturesUnordered<StreamTask>,
    limits: StreamLimits,
    begun: u64,
    limits_resets: bool,
    /// The requests that were cancelled before they were answered, since `window`.
    cancelled: u32,
    window: Option<Instant>,
}

#[derive(Clone, Copy)]
struct StreamLimits {
    total: Option<Duration>,
    write_stall: Option<Duration>,
}

/// What hyper is given to run streams. A clone is of the same connection.
#[derive(Clone, Default)]
pub(super) struct StreamsHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    fresh: Mutex<Fresh>,
    /// A stream was polled, and may have given hyper something to write.
    is_polled: AtomicBool,
}

/// Streams that hyper has begun and that are not polled yet.
#[derive(Default)]
struct Fresh {
    /// The state of the stream whose request the service was given last. hyper calls the executor for
    /// it next, before it does anything else.
    state: Option<Arc<StreamState>>,
    streams: Vec<(Arc<StreamState>, BoxFuture)>,
}

/// State that the parts of a stream (service, body, task) share.
#[derive(Debug)]
pub(super) struct StreamState {
    /// That which a connection in HTTP/1.1 has for its requests.
    pub(super) of_request: Arc<ConnectionState>,
    /// Odd while hyper holds a piece of the response that it cannot send, because the client's window is
    /// closed; it changes with each piece.
    progress: AtomicU32,
    is_answered: AtomicBool,
}

impl StreamState {
    pub(super) fn new(of_request: Arc<ConnectionState>) -> Arc<Self> {
        Arc::new(Self {
            of_request,
            progress: AtomicU32::default(),
            is_answered: AtomicBool::default(),
        })
    }

    /// hyper has a piece of the response, and asks for the next only when it has sent this one.
    pub(super) fn piece_given(&self) {
        self.progress
            .store(self.progress.load(Relaxed) | 1, Relaxed);
    }

    /// hyper asks for a piece of the response.
    pub(super) fn piece_wanted(&self) {
        let progress = self.progress.load(Relaxed);
        self.progress
            .store(progress.wrapping_add(progress & 1), Relaxed);
    }

    /// The number of the piece that hyper cannot send, if there is one.
    fn unsent(&self) -> Option<u32> {
        Some(self.progress.load(Relaxed)).filter(|progress| progress & 1 == 1)
    }

    /// The response's head was given to hyper.
    pub(super) fn set_answered(&self) {
        self.is_answered.store(true, Relaxed);
    }
}

impl StreamsHandle {
    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service was given a request.
    pub(super) fn begin(&self, state: Arc<StreamState>) {
        self.fresh().state = Some(state);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamsHandle {
    fn execute(&self, stream: F) {
        let mut fresh = self.fresh();
        // A tunnel would have none, but the edge accepts no tunnel.
        if let Some(state) = fresh.state.take() {
            fresh.streams.push((state, Box::pin(stream)));
        }
    }
}

impl Streams {
    pub(super) fn new(limits: &Limits, limits_resets: bool) -> (Self, StreamsHandle) {
        let handle = StreamsHandle::default();
        let streams = Self {
            handle: handle.clone(),
            tasks: FuturesUnordered::new(),
            limits: StreamLimits {
                total: limits.total,
                write_stall: limits.write_stall,
            },
            begun: 0,
            limits_resets,
            cancelled: 0,
            window: None,
        };
        (streams, handle)
    }

    /// Polls the streams that can go on. Returns whether there were any.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let fresh = std::mem::take(&mut self.handle.fresh().streams);
        for (state, future) in fresh {
            self.begun += 1;
            let handle = self.handle.clone();
            self.tasks
                .push(StreamTask::new(future, state, handle, self.limits));
        }
        while let Poll::Ready(Some(Ended { is_answered })) = Pin::new(&mut self.tasks).poll_next(cx)
        {
            if !is_answered {
                self.count_cancelled();
            }
        }
        self.handle.0.is_polled.swap(false, Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The number of requests so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether the client cancels requests before they are answered faster than any user does, as in the
    /// attack "rapid reset". Each costs more here than there.
    pub(super) fn are_reset_too_fast(&self) -> bool {
        self.limits_resets && self.cancelled > MAX_RESETS
    }

    /// Whether the client goes on although it was asked to leave.
    pub(super) fn are_reset_after_goaway(&self) -> bool {
        self.cancelled > MAX_RESETS + MAX_RESETS_AFTER
    }

    fn count_cancelled(&mut self) {
        let now = Instant::now();
        let began = *self.window.get_or_insert(now);
        if now.duration_since(began) > RESETS_WITHIN && !self.are_reset_too_fast() {
            self.window = Some(now);
            self.cancelled = 0;
        }
        self.cancelled += 1;
    }
}

impl Drop for Streams {
    /// A stream that hyper has begun holds a handle, and until it is polled for the first time, the handle
    /// holds the stream. If the connection ends before, neither would be freed.
    fn drop(&mut self) {
        let never_polled = std::mem::take(&mut *self.handle.fresh());
        drop(never_polled);
    }
}

/// One stream, with its clocks.
struct StreamTask {
    future: BoxFuture,
    state: Arc<StreamState>,
    handle: StreamsHandle,
    total: Deadline,
    write_stall: Option<Duration>,
    stall: Deadline,
    /// The piece for which the clock of a closed window was started.
    timed: Option<u32>,
}

/// How a stream has ended.
struct Ended {
    is_answered: bool,
}

impl StreamTask {
    fn new(
        future: BoxFuture,
        state: Arc<StreamState>,
        handle: StreamsHandle,
        limits: StreamLimits,
    ) -> Self {
        let mut total = Deadline::default();
        total.arm_after(limits.total);
        Self {
            future,
            state,
            handle,
            total,
            write_stall: limits.write_stall,
            stall: Deadline::default(),
            timed: None,
        }
    }

    /// Ready when the stream must end. Its drop resets it.
    fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let unsent = self.state.unsent();
        if self.timed != unsent {
            self.timed = unsent;
            self.stall.arm_after(unsent.and(self.write_stall));
        }
        if self.stall.poll(cx).is_ready() {
            tracing::debug!(
                "the client did not open the window of a stream for {:?} \
                 (limit: LLAMATOWER_WRITE_STALL_TIMEOUT)",
                self.write_stall.unwrap_or_default()
            );
            return Poll::Ready(());
        }
        self.total.poll(cx)
    }
}

impl Future for StreamTask {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        this.state.of_request.begin_turn(cx.waker());
        this.handle.0.is_polled.store(true, Relaxed);
        if this.future.as_mut().poll(cx).is_pending() && this.poll_clocks(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Ended {
            is_answered: this.state.is_answered.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use llamatower_edge::ClientSocket;

    use super::*;
    use crate::edge::gauges::Gauges;

    fn limits() -> Limits {
        Limits {
            header: Duration::MAX,
            keep_alive: Duration::MAX,
            total: None,
            write_stall: None,
            head_bytes: 1024,
            head_fields: 10,
            plain_http2: true,
        }
    }

    #[test]
    fn a_stream_that_was_never_polled_ends_with_its_connection() {
        let (streams, handle) = Streams::new(&limits(), true);
        let socket = ClientSocket::new((), None).state().clone();
        let gauges = Arc::<Gauges>::default();
        handle.begin(StreamState::new(ConnectionState::new(
            socket,
            gauges.clone(),
        )));
        // hyper's future of a stream holds the executor.
        let held = (handle.clone(), Arc::clone(&gauges));
        handle.execute(async move {
            pending::<()>().await;
            drop(held);
        });
        drop((streams, handle));
        assert_eq!(Arc::strong_count(&gauges), 1);
    }
}
