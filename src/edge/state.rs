//! State that the parts of a connection (socket, service, bodies, task) share.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use llamatower_edge::SocketState;

use super::gauges::Gauges;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A head is expected or arriving.
    Head,
    /// The previous request is answered, and no byte of the next has arrived.
    Idle,
    /// A request is in flight.
    Exchange,
}

const IDLE: u32 = 1;
const EXCHANGE: u32 = 2;
const PHASE: u32 = 3;
const NEXT: u32 = 4;

/// A connection's shared state. Only the connection's task uses most of it; it is atomic because
/// bodies may be sent to other tasks.
#[derive(Debug)]
pub(super) struct ConnectionState {
    /// What the socket below hyper knows.
    pub(super) socket: SocketState,
    /// The phase in the low bits, and a counter above them, so that every change is noticed.
    phase: AtomicU32,
    /// How many turns (polls) the connection's task has had.
    turn: AtomicU32,
    /// Bytes read since the last request began.
    read: AtomicUsize,
    /// The beginning of what may be the next request line, if it has a defect that hyper does not
    /// report.
    malformed: Mutex<Option<Box<[u8]>>>,
    flags: Flags,
    unread_body: Mutex<Unread>,
    waker: OnceLock<Waker>,
    pub(super) gauges: Arc<Gauges>,
}

/// The place for a body that the stack no longer reads.
#[derive(Debug, Default)]
enum Unread {
    /// No connection reads it, so it is dropped.
    #[default]
    Refused,
    Awaited,
    Body(Incoming),
}

#[derive(Debug, Default)]
struct Flags {
    has_unread_body: AtomicBool,
    unread: AtomicBool,
    shut_down: AtomicBool,
    http_10: AtomicBool,
    refused: AtomicBool,
    body_open: AtomicBool,
}

impl ConnectionState {
    pub(super) fn new(socket: SocketState, gauges: Arc<Gauges>) -> Arc<Self> {
        Arc::new(Self {
            socket,
            phase: AtomicU32::default(),
            turn: AtomicU32::default(),
            read: AtomicUsize::default(),
            malformed: Mutex::default(),
            flags: Flags::default(),
            unread_body: Mutex::default(),
            waker: OnceLock::default(),
            gauges,
        })
    }

    /// A value that changes with every entry into a phase, and the phase.
    pub(super) fn phase(&self) -> (u32, Phase) {
        let word = self.phase.load(Relaxed);
        let phase = match word & PHASE {
            IDLE => Phase::Idle,
            EXCHANGE => Phase::Exchange,
            _ => Phase::Head,
        };
        (word, phase)
    }

    fn enter(&self, phase: u32) {
        let count = self.phase.load(Relaxed) & !PHASE;
        self.phase.store(count.wrapping_add(NEXT) | phase, Relaxed);
    }

    /// A request's head has arrived. `is_counted` means that the stack answers it.
    pub(super) fn begin(self: &Arc<Self>, is_counted: bool) -> InFlight {
        self.enter(EXCHANGE);
        self.socket.set_unflushed();
        if is_counted {
            self.gauges.in_flight.fetch_add(1, Relaxed);
        }
        InFlight {
            state: self.clone(),
            is_counted,
        }
    }

    /// The socket has read bytes.
    pub(super) fn bytes_read(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed) + bytes, Relaxed);
        if self.phase.load(Relaxed) & PHASE == IDLE && !self.is_body_open() {
            self.enter(0);
        }
    }

    /// Returns the bytes read since the last call.
    pub(super) fn take_read(&self) -> usize {
        self.read.swap(0, Relaxed)
    }

    /// Whether the next byte that is read may be the first of a head.
    pub(super) fn awaits_head(&self) -> bool {
        match self.phase().1 {
            Phase::Idle => true,
            Phase::Exchange => false,
            Phase::Head => self.read.load(Relaxed) == 0,
        }
    }

    pub(super) fn set_malformed(&self, line: &[u8]) {
        *lock(&self.malformed) = Some(line.into());
    }

    /// The request line that was found malformed since the last request began.
    pub(super) fn take_malformed(&self) -> Option<Box<[u8]>> {
        lock(&self.malformed).take()
    }

    /// Whether hyper's output belongs to no request of the service: hyper refuses a head.
    pub(super) fn is_refusing(&self) -> bool {
        self.socket.is_flushed() && self.phase.load(Relaxed) & PHASE != EXCHANGE
    }

    /// Hands over a body that is no longer read by the stack. Once the connection has ended, the body is
    /// dropped.
    pub(super) fn hand_over_body(&self, body: Incoming) {
        let mut place = lock(&self.unread_body);
        if matches!(*place, Unread::Refused) {
            return;
        }
        *place = Unread::Body(body);
        drop(place);
        self.flags.has_unread_body.store(true, Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// From here on, bodies can be handed over.
    pub(super) fn accept_bodies(self: &Arc<Self>) -> UnreadBodies {
        *lock(&self.unread_body) = Unread::Awaited;
        UnreadBodies(self.clone())
    }

    /// The next piece of a request's body.
    ///
    /// hyper wakes the connection whenever a piece is taken, to read on. After the last piece of a
    /// body with a known length there is nothing to read; the wake-up would cost each small request
    /// a useless poll.
    pub(super) fn poll_piece(
        self: &Arc<Self>,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        TAKING.set(Taking::Quietly);
        let piece = Pin::new(&mut *body).poll_frame(cx);
        let is_over = body.is_end_stream() || matches!(piece, Poll::Ready(None));
        if is_over {
            self.set_body_open(false);
            // Bytes read from here on are the next head, whose length is counted.
            self.take_read();
        }
        if TAKING.replace(Taking::Not) == Taking::Woken && !is_over {
            self.wake_by_ref();
        }
        piece
    }

    /// The connection's task is polled.
    pub(super) fn begin_turn(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
        let turn = self.turn.load(Relaxed);
        self.turn.store(turn.wrapping_add(1), Relaxed);
    }

    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Relaxed)
    }
}

/// The bodies that are handed over to a connection, until this is dropped.
///
/// A body that stayed in the state would never be freed: hyper's part of the body holds the connection's
/// waker, which is the state. So the connection drops this when it ends, after hyper's connection.
#[derive(Debug)]
pub(super) struct UnreadBodies(Arc<ConnectionState>);

impl UnreadBodies {
    /// The body that was handed over.
    pub(super) fn take(&self) -> Option<Incoming> {
        let flag = &self.0.flags.has_unread_body;
        if !flag.load(Relaxed) {
            return None;
        }
        flag.store(false, Relaxed);
        match std::mem::replace(&mut *lock(&self.0.unread_body), Unread::Awaited) {
            Unread::Body(body) => Some(body),
            Unread::Refused | Unread::Awaited => None,
        }
    }
}

impl Drop for UnreadBodies {
    fn drop(&mut self) {
        let last = std::mem::take(&mut *lock(&self.0.unread_body));
        drop(last);
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this thread is taking a piece of a body, and whether hyper has woken the connection for
/// it. Thread-local, because a wake-up from another thread at that moment must not be suppressed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    Not,
    Quietly,
    Woken,
}

thread_local! {
    static TAKING: Cell<Taking> = const { Cell::new(Taking::Not) };
}

/// The waker that hyper receives.
impl Wake for ConnectionState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if TAKING.get() != Taking::Not {
            TAKING.set(Taking::Woken);
        } else if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $set:ident $get:ident $flag:ident;)*) => {
        impl ConnectionState {
            $($(#[$doc])*
            pub(super) fn $set(&self, value: bool) {
                self.flags.$flag.store(value, Relaxed);
            }
            pub(super) fn $get(&self) -> bool {
                self.flags.$flag.load(Relaxed)
            })*
        }
    };
}

flags! {
    /// Bytes of a request's body are, or may be, in transit and will not be read.
    set_unread is_unread unread;
    /// hyper has shut down the writing side, after it flushed everything.
    set_shut_down is_shut_down shut_down;
    /// The last request was HTTP/1.0, whose response may end with the connection.
    set_http_10 is_http_10 http_10;
    /// hyper refused a head, and its output was dropped.
    set_refused has_refused refused;
    /// The request's body has not ended: hyper reads on when it is polled.
    set_body_open is_body_open body_open;
}

/// A request in flight; dropped at the end of its response.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Arc<ConnectionState>,
    is_counted: bool,
}

impl InFlight {
    pub(super) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.enter(IDLE);
        if self.is_counted {
            self.state.gauges.in_flight.fetch_sub(1, Relaxed);
            self.state.gauges.finished.fetch_add(1, Relaxed);
        }
    }
}
