//! A shared breaker, and the tokens of requests.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;

use super::machine::{Machine, Permit, RequestResult, State};
use super::{BreakerPolicy, CircuitOpen};

type Hook = dyn Fn(State, State) + Send + Sync;

/// A circuit breaker. Clones share their state.
#[derive(Clone)]
pub struct Breaker(Arc<Hooked>);

/// One pointer to everything, because tokens are moved often.
struct Hooked {
    shared: Arc<Shared>,
    hook: Option<Box<Hook>>,
}

struct Shared {
    machine: Mutex<Machine>,
    /// A copy of the machine's state, for callers that check many breakers, most of them closed.
    is_closed: AtomicBool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        let shared = Arc::new(Shared {
            machine: Mutex::new(Machine::new(policy, Instant::now())),
            is_closed: AtomicBool::new(true),
        });
        Self(Arc::new(Hooked { shared, hook: None }))
    }

    /// Calls `hook` with the old and the new state whenever the breaker, or a clone of it, changes
    /// state.
    pub fn with_hook(self, hook: impl Fn(State, State) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Hooked {
            shared: self.0.shared.clone(),
            hook: Some(Box::new(hook)),
        }))
    }

    /// The current state. An open breaker becomes half-open only when a request asks after its
    /// time.
    pub fn state(&self) -> State {
        self.machine().state()
    }

    /// Whether all requests are allowed. Tokens then need not be taken in advance, because their
    /// number is not limited.
    pub fn is_closed(&self) -> bool {
        self.0.shared.is_closed.load(Ordering::Acquire)
    }

    /// Whether a request would be allowed now. This changes nothing.
    pub fn would_allow(&self) -> bool {
        self.is_closed() || self.retry_after().is_none()
    }

    /// Time until a request may be allowed; `None` if it may be now.
    pub fn retry_after(&self) -> Option<Duration> {
        self.machine().wait(Instant::now())
    }

    /// Requests a token for one request.
    ///
    /// # Errors
    /// The breaker is open, or all its probes are in flight.
    pub fn acquire(&self) -> Result<Token, CircuitOpen> {
        let acquired = self.change(|machine| {
            // A closed breaker needs no clock.
            if let Some(permit) = machine.acquire_closed() {
                return Ok(permit);
            }
            let now = Instant::now();
            let retry_after = machine.wait(now).unwrap_or_default();
            machine.acquire(now).ok_or(CircuitOpen { retry_after })
        });
        acquired.map(|permit| self.token(permit))
    }

    /// Returns a token in every state, for a request that no other backend can serve. Its result
    /// counts: after a success, an open breaker becomes half-open.
    pub fn acquire_anyway(&self) -> Token {
        let permit = self.change(|machine| machine.acquire_anyway(Instant::now()));
        self.token(permit)
    }

    fn token(&self, permit: Permit) -> Token {
        Token {
            breaker: self.clone(),
            permit,
            result: RequestResult::Nothing,
        }
    }

    /// Makes an open breaker half-open, because the backend is known to be available again.
    pub fn half_open(&self) {
        self.change(Machine::half_open);
    }

    /// Puts a token into a request's extensions, for the backend's
    /// [`BreakerLayer`](super::BreakerLayer). If the request does not arrive there, the token is
    /// released.
    pub fn put_token(extensions: &mut Extensions, token: Token) {
        extensions.insert(Carried(Arc::new(Mutex::new(Some(token)))));
    }

    /// The token in a request's extensions.
    pub(super) fn take_token(extensions: &mut Extensions) -> Option<Token> {
        let carried: Carried = extensions.remove()?;
        let mut token = carried.0.lock().unwrap_or_else(PoisonError::into_inner);
        token.take()
    }

    /// Changes the machine, and calls the hook after the lock is released.
    fn change<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.machine();
        let before = machine.state();
        let result = change(&mut machine);
        let after = machine.state();
        let is_closed = after == State::Closed;
        self.0.shared.is_closed.store(is_closed, Ordering::Release);
        drop(machine);
        if let Some(hook) = self.0.hook.as_ref().filter(|_| before != after) {
            hook(before, after);
        }
        result
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        let shared = &self.0.shared;
        shared
            .machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Breaker").field(&*self.machine()).finish()
    }
}

/// Extensions must be `Clone`, but a token is not; so only the first call gets it.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Token>>>);

/// The permit to send one request. If it is dropped without a result, the request does not count.
#[must_use = "a dropped token does not count"]
pub struct Token {
    breaker: Breaker,
    permit: Permit,
    result: RequestResult,
}

impl Token {
    /// The response has begun, so the next probe may be sent. This is not a result.
    pub fn answered(&mut self) {
        if self.permit.has_place {
            let permit = &mut self.permit;
            self.breaker.change(|machine| machine.answered(permit));
        }
    }

    /// The backend served the request, or refused it for a good reason.
    pub fn succeed(mut self) {
        self.result = RequestResult::Success;
    }

    /// The backend failed.
    pub fn fail(mut self) {
        self.result = RequestResult::Failure;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let (permit, result) = (&mut self.permit, self.result);
        let now = Instant::now();
        self.breaker
            .change(|machine| machine.settle(permit, result, now));
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}
