//! Ollama's scheduler: loads, slots and unloads.
//!
//! It follows these rules of the real scheduler:
//!
//! - A request for a resident model attaches to it at once and waits for a slot in an unbounded
//!   queue. Only requests that need a load use the bounded queue.
//! - Loads are serial, in order of arrival; the first request blocks the others.
//! - If there is no room, a runner is chosen (idle first, then the shortest keep-alive, then the
//!   path) and unloaded when it is idle. Until then it accepts requests, so a busy model can starve
//!   a pending load.
//! - A change of runner options (for example `num_ctx`) reloads the model.
//! - A client that disconnects releases its queue position, its slot or its load.
//!
//! There is no task: a caller that changes the state also advances it, and each request does its
//! own waiting and loading.

mod state;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::log::{Events, SimState};
use state::{Phase, State};

pub(crate) use state::{RunnerOptions, RunnerRequest};

/// The time that a model stays loaded after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeepAlive {
    For(Duration),
    Forever,
}

impl KeepAlive {
    /// Ollama's default, for a server that runs faster than real time.
    pub(crate) fn default_at_speed(speed: f64) -> Self {
        Self::For(Duration::from_secs(5 * 60).div_f64(speed))
    }
}

/// The queue of requests that need a load is full.
#[derive(Debug)]
pub(crate) struct QueueFull;

/// A resident model, as in `/api/ps`.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) name: String,
    pub(crate) context_length: u64,
    pub(crate) expires_at: Timestamp,
}

pub(crate) struct Scheduler {
    state: Mutex<State>,
    events: Arc<Events>,
    /// The next expiry has changed.
    expiries: Notify,
}

impl Scheduler {
    pub(crate) fn new(
        max_queue: usize,
        max_loaded: usize,
        keep_alive: KeepAlive,
        events: Arc<Events>,
    ) -> Self {
        Self {
            state: Mutex::new(State::new(max_queue, max_loaded, keep_alive)),
            events,
            expiries: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then notifies all waiters.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, woken) = {
            let mut state = self.state();
            let changed = change(&mut state);
            (changed, state.take_woken())
        };
        woken.into_iter().for_each(std::task::Waker::wake);
        self.expiries.notify_one();
        self.events.notify_waiters();
        changed
    }

    /// Waits until the model is resident and, if requested, one of its slots is free.
    ///
    /// # Errors
    /// A load is needed, and the queue for loads is full.
    pub(crate) async fn acquire(self: &Arc<Self>, want: RunnerRequest) -> Result<Lease, QueueFull> {
        let began = Instant::now();
        let load = want.spec.load_time;
        let mut lease = Lease {
            scheduler: self.clone(),
            id: self.change(|state| state.enter(want)),
            load: Duration::ZERO,
            ended: None,
        };
        loop {
            let phase = poll_fn(|cx| {
                let mut state = self.state();
                match state.phase(lease.id) {
                    Some(phase) if phase.is_waiting() => {
                        // The wait for a slot is no part of the load.
                        if phase == Phase::Queued && lease.load.is_zero() {
                            lease.load = began.elapsed();
                        }
                        state.set_waker(lease.id, cx.waker());
                        Poll::Pending
                    }
                    phase => Poll::Ready(phase),
                }
            })
            .await;
            if lease.load.is_zero() && phase != Some(Phase::Loading) {
                lease.load = began.elapsed();
            }
            match phase {
                Some(Phase::Loading) => {
                    if !load.is_zero() {
                        sleep(load).await;
                    }
                    lease.load = began.elapsed();
                    self.change(|state| state.loaded(lease.id));
                }
                Some(Phase::Attached | Phase::Running) => return Ok(lease),
                _ => return Err(QueueFull),
            }
        }
    }

    /// Unloads a model as soon as it is idle.
    pub(crate) fn expire(&self, runner: &str) {
        self.change(|state| state.expire(runner));
    }

    /// The resident models, the latest expiry first.
    pub(crate) fn resident(&self) -> Vec<Resident> {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let mut rows: Vec<Resident> = self
            .state()
            .residents()
            .map(|runner| Resident {
                name: runner.name.clone(),
                context_length: runner.options.context_length(),
                expires_at: match (runner.keep_alive, runner.expires_at) {
                    (KeepAlive::Forever, _) => Timestamp::MAX,
                    (KeepAlive::For(_), Some(at)) => later(wall, at.saturating_duration_since(now)),
                    (KeepAlive::For(length), None) => later(wall, length),
                },
            })
            .collect();
        rows.sort_by(|a, b| b.expires_at.cmp(&a.expires_at).then(a.name.cmp(&b.name)));
        rows
    }

    pub(crate) fn describe(&self, shown: &mut SimState) {
        let state = self.state();
        shown.generating = state.count(Phase::Running);
        shown.waiting_for_slot = state.count(Phase::Queued);
        shown.waiting_for_load =
            state.count(Phase::Pending) + state.count(Phase::Waiting) + state.count(Phase::Loading);
        shown.loads = state.loads;
        shown.loads_aborted = state.loads_aborted;
        shown.resident = state
            .residents()
            .map(|runner| runner.name.clone())
            .collect();
        shown.resident.sort();
    }

    /// Unloads models when their keep-alive ends; never returns.
    pub(crate) async fn run_expiries(&self) {
        loop {
            let changed = self.expiries.notified();
            let next = self.state().next_expiry();
            match next {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {
                            self.change(|state| state.expire_due(Instant::now()));
                        }
                    }
                }
            }
        }
    }
}

/// The time after `length`, or the last possible time.
fn later(wall: Timestamp, length: Duration) -> Timestamp {
    SignedDuration::try_from(length)
        .ok()
        .and_then(|length| wall.checked_add(length).ok())
        .unwrap_or(Timestamp::MAX)
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let resident: Vec<String> = self
            .resident()
            .into_iter()
            .map(|model| model.name)
            .collect();
        f.debug_struct("Scheduler")
            .field("resident", &resident)
            .finish_non_exhaustive()
    }
}

/// A place in the scheduler: in a queue, in a load, at a model, or in a slot. Dropping it releases
/// the place.
pub(crate) struct Lease {
    scheduler: Arc<Scheduler>,
    id: u64,
    load: Duration,
    ended: Option<Instant>,
}

impl Lease {
    /// When the request could begin: now, or a moment ago if its slot became free then.
    pub(crate) fn since(&self) -> Instant {
        let since = self.scheduler.state().since(self.id);
        since.unwrap_or_else(Instant::now)
    }

    /// Says when the request has ended, if that is not the time when the lease is dropped.
    pub(crate) fn end_at(&mut self, at: Instant) {
        self.ended = Some(at);
    }

    /// The number of the load of its model on this server.
    pub(crate) fn load_number(&self) -> u64 {
        self.scheduler.state().load_of(self.id).unwrap_or_default()
    }

    /// The wait until the model was resident.
    pub(crate) fn load_duration(&self) -> Duration {
        self.load
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let at = self.ended.unwrap_or_else(Instant::now);
        self.scheduler.change(|state| state.leave(self.id, at));
    }
}
