//! Ollama's scheduler: who waits for a load, who for a slot, who must leave.
//!
//! What it keeps of the real one:
//!
//! - A request whose model is resident attaches to it at once and waits for a slot in a queue
//!   without bounds. Only requests that need a load stand in the bounded queue.
//! - Loads are serial, in order of arrival; the first in line holds up the rest.
//! - When there is no room, a victim is chosen (idle first, then the shortest keep-alive, then
//!   the path) and leaves when it is idle. Until then it goes on accepting, so that a busy model
//!   can starve a pending load.
//! - Other options of the runner (`num_ctx` and the like) reload the model.
//! - A client that goes away gives up its place, its slot, or the load it caused.
//!
//! There is no task behind it: whoever changes the state moves it on, and each request does its
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

pub(crate) use state::{RunnerOptions, Want};

/// How long a model stays after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeepAlive {
    For(Duration),
    Forever,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::For(Duration::from_secs(5 * 60))
    }
}

/// The queue of requests that need a load is full.
#[derive(Debug)]
pub(crate) struct QueueFull;

/// A resident model, as `/api/ps` shows it.
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
    pub(crate) fn new(max_queue: usize, max_loaded: usize, events: Arc<Events>) -> Self {
        Self {
            state: Mutex::new(State::new(max_queue, max_loaded)),
            events,
            expiries: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then tells everyone.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, woken) = {
            let mut state = self.state();
            let changed = change(&mut state);
            (changed, state.take_woken())
        };
        woken.into_iter().for_each(std::task::Waker::wake);
        self.expiries.notify_one();
        self.events.happen();
        changed
    }

    /// Waits until the model is resident and, if so wanted, one of its slots is free.
    ///
    /// # Errors
    /// A load is needed and the queue for loads is full.
    pub(crate) async fn acquire(self: &Arc<Self>, want: Want) -> Result<Lease, QueueFull> {
        let began = Instant::now();
        let load = want.spec.load_time;
        let mut lease = Lease {
            scheduler: self.clone(),
            id: self.change(|state| state.enter(want)),
            load: Duration::ZERO,
        };
        loop {
            let phase = poll_fn(|cx| {
                let mut state = self.state();
                match state.phase(lease.id) {
                    Some(phase) if phase.is_waiting() => {
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

    /// Makes a model leave as soon as it is idle.
    pub(crate) fn expire(&self, runner: &str) {
        self.change(|state| state.expire(runner));
    }

    /// The models that are resident, the last to expire first.
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

    /// Unloads models whose time has come; never ends.
    pub(crate) async fn keep_time(&self) {
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

/// The time so much later; the end of time if that is beyond it.
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

/// A place in the scheduler: in a queue, in a load, at a model, in a slot. Dropped, it is given
/// up.
pub(crate) struct Lease {
    scheduler: Arc<Scheduler>,
    id: u64,
    load: Duration,
}

impl Lease {
    /// The wait until the model was resident.
    pub(crate) fn load_duration(&self) -> Duration {
        self.load
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.scheduler.change(|state| state.leave(self.id));
    }
}
