//! An exchange with the backend that several requests share.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use http::response::Parts;
use http::{Response, StatusCode};
use http_body::Body;

use super::key::Key;
use super::reporters::{Place, Reporters};
use super::store::Store;
use crate::frames::{EndRule, Framing, StreamEnd, Tail};
use crate::{BoxError, Dialect, Operation};

pub(super) type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;
pub(super) type Exchange =
    Pin<Box<dyn Future<Output = Result<Response<BoxBody>, BoxError>> + Send>>;

/// What a new exchange needs before it begins: the rule for the end of its response.
pub(super) struct NewExchange {
    /// That of the request that begins it.
    pub(super) place: Place,
    pub(super) dialect: Dialect,
    pub(super) operation: Operation,
}

/// A shared exchange failed. Each of its requests gets this error.
#[derive(Clone, Debug)]
pub struct SharedFailure(Arc<BoxError>);

impl fmt::Display for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for SharedFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0)
    }
}

/// A shared exchange. The participant that is polled drives it. It is cancelled when the last
/// participant is dropped.
pub(super) struct Flight {
    key: Key,
    store: Arc<Store>,
    dialect: Dialect,
    operation: Operation,
    state: Mutex<State>,
    wakers: Arc<Wakers>,
    pub(super) reporters: Reporters,
}

struct State {
    stage: Stage,
    head: Option<Parts>,
    frames: VecDeque<Bytes>,
    /// The number of frames that were dropped from the front of `frames`.
    dropped: usize,
    bytes: u64,
    /// The response is too large to be cached and to be joined.
    is_too_large: bool,
}

enum Stage {
    /// The leader has not called the inner service yet.
    Starting,
    Calling(Exchange),
    Streaming(BoxBody),
    Complete,
    Failed(SharedFailure),
}

impl Flight {
    pub(super) fn new(key: Key, store: Arc<Store>, inner: NewExchange) -> Self {
        Self {
            key,
            store,
            dialect: inner.dialect,
            operation: inner.operation,
            state: Mutex::new(State {
                stage: Stage::Starting,
                head: None,
                frames: VecDeque::new(),
                dropped: 0,
                bytes: 0,
                is_too_large: false,
            }),
            wakers: Arc::default(),
            reporters: Reporters::new(inner.place),
        }
    }

    /// Begins the exchange. If `call` panics, the requests that have joined fail.
    pub(super) fn start(&self, call: impl FnOnce() -> Exchange) {
        let unstarted = Unstarted(self);
        let exchange = call();
        self.state().stage = Stage::Calling(exchange);
        std::mem::forget(unstarted);
        self.wakers.wake_all();
    }

    pub(super) fn leave(&self, id: u64) {
        self.reporters.leave(id);
        self.wakers.list().remove(&id);
        // Another participant must continue to drive the exchange.
        self.wakers.wake_all();
    }

    /// The response head, for the participant `id`.
    pub(super) fn poll_head(
        &self,
        id: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Parts, SharedFailure>> {
        let mut state = self.state();
        loop {
            if let Some(head) = &state.head {
                return Poll::Ready(Ok(head.clone()));
            }
            if let Stage::Failed(failure) = &state.stage {
                return Poll::Ready(Err(failure.clone()));
            }
            ready!(self.drive(&mut state, id, cx));
        }
    }

    /// The frame after `seen` frames, for the participant `id`.
    pub(super) fn poll_frame(
        self: &Arc<Self>,
        id: u64,
        seen: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, SharedFailure>>> {
        let mut state = self.state();
        loop {
            if let Some(frame) = state.frames.get(seen - state.dropped) {
                let frame = frame.clone();
                if state.is_too_large && Arc::strong_count(self) == 1 {
                    // No request can join, and this is the last participant: the frames are not
                    // needed again.
                    let index = seen - state.dropped;
                    state.frames.drain(..=index);
                    state.dropped = seen + 1;
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            match &state.stage {
                Stage::Complete => return Poll::Ready(None),
                Stage::Failed(failure) => return Poll::Ready(Some(Err(failure.clone()))),
                Stage::Starting | Stage::Calling(_) | Stage::Streaming(_) => {}
            }
            ready!(self.drive(&mut state, id, cx));
        }
    }

    /// Whether the response is complete and has no frame after `seen` frames.
    pub(super) fn is_at_end(&self, seen: usize) -> bool {
        let state = self.state();
        matches!(state.stage, Stage::Complete) && seen - state.dropped >= state.frames.len()
    }

    /// Drives the exchange by one step and wakes the other participants.
    fn drive(&self, state: &mut State, id: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.wakers.list().insert(id, cx.waker().clone());
        let waker = Waker::from(self.wakers.clone());
        let mut shared = Context::from_waker(&waker);
        match &mut state.stage {
            Stage::Starting => return Poll::Pending,
            Stage::Calling(exchange) => match ready!(exchange.as_mut().poll(&mut shared)) {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    state.head = Some(head);
                    state.stage = Stage::Streaming(body);
                    self.reporters.begin();
                    self.look_for_end(state);
                }
                Err(error) => self.fail(state, error),
            },
            Stage::Streaming(body) => match ready!(body.as_mut().poll_frame(&mut shared)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        state.bytes += data.len() as u64;
                        state.frames.push_back(data);
                        if state.bytes > self.store.max_answer && !state.is_too_large {
                            state.is_too_large = true;
                            self.close();
                        }
                    }
                    self.look_for_end(state);
                }
                Some(Err(error)) => self.fail(state, error),
                None => self.complete(state),
            },
            Stage::Complete | Stage::Failed(_) => {}
        }
        self.wakers.list().remove(&id);
        self.wakers.wake_all();
        Poll::Ready(())
    }

    fn look_for_end(&self, state: &mut State) {
        if matches!(&state.stage, Stage::Streaming(body) if body.is_end_stream()) {
            self.complete(state);
        }
    }

    fn complete(&self, state: &mut State) {
        state.stage = Stage::Complete;
        self.reporters.end();
        if let Some(head) = state.head.as_ref().filter(|_| !state.is_too_large)
            && self.is_cacheable(head, &state.frames)
        {
            let frames = state.frames.iter().cloned().collect();
            self.store.insert(self.key, head.clone(), frames);
        }
        self.close();
    }

    fn fail(&self, state: &mut State, error: BoxError) {
        state.stage = Stage::Failed(SharedFailure(Arc::new(error)));
        self.reporters.end();
        self.close();
    }

    fn close(&self) {
        self.store.close(&self.key, self);
    }

    fn is_cacheable(&self, head: &Parts, frames: &VecDeque<Bytes>) -> bool {
        let forbids = |value: &http::HeaderValue| value.as_bytes().starts_with(b"no-store");
        if head.status != StatusCode::OK || head.headers.get(CACHE_CONTROL).is_some_and(forbids) {
            return false;
        }
        let len: usize = frames.iter().map(Bytes::len).sum();
        let declared = head.headers.get(CONTENT_LENGTH);
        let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
        if declared.is_some_and(|declared: usize| declared != len) {
            return false;
        }
        let Some(framing) = Framing::of(&head.headers) else {
            return len > 0;
        };
        let mut tail = Tail::new(framing);
        frames.iter().for_each(|frame| tail.push(frame));
        let rule = EndRule::of(framing, self.dialect, Some(self.operation));
        tail.end(rule) == StreamEnd::Complete
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.close();
    }
}

/// Fails an exchange that the leader could not begin.
struct Unstarted<'a>(&'a Flight);

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        let error = "the request that was to fetch the response could not be sent";
        self.0.fail(&mut self.0.state(), error.into());
        self.0.wakers.wake_all();
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

/// The wakers of the waiting participants. The first one that runs drives the exchange.
#[derive(Default)]
struct Wakers(Mutex<HashMap<u64, Waker>>);

impl Wakers {
    fn list(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        // Woken after the lock was released, because a waker can run any code.
        let wakers: Vec<Waker> = self.list().drain().map(|(_, waker)| waker).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
