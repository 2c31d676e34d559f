//! A breaker that many share, and what it lets through.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;

use super::machine::{Leave, Machine, State, Verdict};
use super::{BreakerPolicy, CircuitOpen};

type Hook = dyn Fn(State, State) + Send + Sync;

/// A circuit breaker. Clones are one and the same.
#[derive(Clone)]
pub struct Breaker(Arc<Hooked>);

/// One pointer to all, as tokens are moved often.
struct Hooked {
    shared: Arc<Shared>,
    hook: Option<Box<Hook>>,
}

struct Shared {
    machine: Mutex<Machine>,
    /// What the machine says, for those who ask many breakers and find most of them closed.
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

    /// Calls `hook` with the state before and after when the breaker, or a clone that is made of
    /// this one, opens or closes.
    pub fn with_hook(self, hook: impl Fn(State, State) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Hooked {
            shared: self.0.shared.clone(),
            hook: Some(Box::new(hook)),
        }))
    }

    /// How it stands. One that is open stays so until a request asks after its time.
    pub fn state(&self) -> State {
        self.machine().state()
    }

    /// Whether it lets all requests through. Their tokens need not be taken before they are sent:
    /// there is no end of them.
    pub fn is_closed(&self) -> bool {
        self.0.shared.is_closed.load(Ordering::Acquire)
    }

    /// Whether a request would be let through now. It changes nothing.
    pub fn would_allow(&self) -> bool {
        self.is_closed() || self.retry_after().is_none()
    }

    /// After how long a request may be let through; `None` if it may now.
    pub fn retry_after(&self) -> Option<Duration> {
        self.machine().wait(Instant::now())
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// The breaker is open, or all its probes are under way.
    pub fn acquire(&self) -> Result<Token, CircuitOpen> {
        let acquired = self.change(|machine| {
            // One that is closed does not ask what time it is.
            if let Some(leave) = machine.acquire_closed() {
                return Ok(leave);
            }
            let now = Instant::now();
            let retry_after = machine.wait(now).unwrap_or_default();
            machine.acquire(now).ok_or(CircuitOpen { retry_after })
        });
        acquired.map(|leave| self.token(leave))
    }

    /// Lets a request through whatever the state, because no other backend can serve it. What becomes
    /// of it counts: a success is reason to let probes through.
    pub fn acquire_anyway(&self) -> Token {
        let leave = self.change(|machine| machine.acquire_anyway(Instant::now()));
        self.token(leave)
    }

    fn token(&self, leave: Leave) -> Token {
        Token {
            breaker: self.clone(),
            leave,
            verdict: Verdict::Nothing,
        }
    }

    /// Lets probes through from now on, if it is open: something else has shown that the backend
    /// is there again.
    pub fn half_open(&self) {
        self.change(Machine::half_open);
    }

    /// Sends a token along with a request, for the [`BreakerLayer`](super::BreakerLayer) of its
    /// backend. If the request does not get there, the token is given back.
    pub fn put_token(extensions: &mut Extensions, token: Token) {
        extensions.insert(Carried(Arc::new(Mutex::new(Some(token)))));
    }

    /// The token that came along with a request.
    pub(super) fn take_token(extensions: &mut Extensions) -> Option<Token> {
        let carried: Carried = extensions.remove()?;
        let mut token = carried.0.lock().unwrap_or_else(PoisonError::into_inner);
        token.take()
    }

    /// Changes the machine, and tells of it after the lock.
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

/// Extensions must be `Clone`; a token is not, so the first who asks has it.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Token>>>);

/// Leave to send one request. Dropped without a verdict, it says nothing of the backend.
#[must_use = "a token that is dropped says nothing"]
pub struct Token {
    breaker: Breaker,
    leave: Leave,
    verdict: Verdict,
}

impl Token {
    /// The answer has begun, so that the next probe may go. It is no verdict.
    pub fn answered(&mut self) {
        if self.leave.has_place {
            let leave = &mut self.leave;
            self.breaker.change(|machine| machine.answered(leave));
        }
    }

    /// The backend did what it was asked for, or said rightly that it cannot.
    pub fn succeed(mut self) {
        self.verdict = Verdict::Success;
    }

    /// The backend failed.
    pub fn fail(mut self) {
        self.verdict = Verdict::Failure;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let (leave, verdict) = (&mut self.leave, self.verdict);
        let now = Instant::now();
        self.breaker
            .change(|machine| machine.settle(leave, verdict, now));
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}
