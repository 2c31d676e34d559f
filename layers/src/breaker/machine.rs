//! The breaker's state machine.

use std::time::Duration;

use tokio::time::Instant;

use super::BreakerPolicy;
use super::window::Window;

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// All requests are allowed.
    Closed,
    /// No request is allowed.
    Open,
    /// Probes are allowed.
    HalfOpen,
}

impl State {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The result of a request, as it concerns the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestResult {
    Success,
    Failure,
    Nothing,
}

/// The permit of an allowed request.
#[derive(Debug)]
pub(super) struct Permit {
    /// The phase in which it was given; its result only counts in the same phase.
    phase: u64,
    /// Whether it occupies one of the places for probes.
    pub(super) has_place: bool,
}

/// About thirty years.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The state machine. It has no clock; the caller passes the time.
#[derive(Debug)]
pub(super) struct Machine {
    policy: BreakerPolicy,
    phase: u64,
    stage: Stage,
    /// How long it will be open the next time.
    open_for: Duration,
}

#[derive(Debug)]
enum Stage {
    Closed { window: Window, in_a_row: u32 },
    Open { until: Instant },
    HalfOpen { waiting: u32, succeeded: u32 },
}

impl Machine {
    pub(super) fn new(policy: BreakerPolicy, now: Instant) -> Self {
        Self {
            stage: Stage::closed(&policy, now),
            open_for: policy.open_for,
            policy,
            phase: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn is_current(&self, permit: &Permit) -> bool {
        permit.phase == self.phase
    }

    pub(super) fn state(&self) -> State {
        match self.stage {
            Stage::Closed { .. } => State::Closed,
            Stage::Open { .. } => State::Open,
            Stage::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Time until a request may be allowed; `None` if it may be now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        match self.stage {
            Stage::Closed { .. } => None,
            Stage::Open { until } => {
                let left = until.saturating_duration_since(now);
                (!left.is_zero()).then_some(left)
            }
            Stage::HalfOpen { waiting, .. } if waiting < self.policy.probes.get() => None,
            // The duration of a probe is not known.
            Stage::HalfOpen { .. } => Some(self.policy.open_for),
        }
    }

    /// Allows a request if the breaker is closed.
    pub(super) fn acquire_closed(&self) -> Option<Permit> {
        let is_closed = matches!(self.stage, Stage::Closed { .. });
        is_closed.then_some(Permit {
            phase: self.phase,
            has_place: false,
        })
    }

    /// Allows a request if the state permits it.
    pub(super) fn acquire(&mut self, now: Instant) -> Option<Permit> {
        if self.wait(now).is_some() {
            return None;
        }
        if let Stage::Open { .. } = self.stage {
            self.half_open();
        }
        let has_place = match &mut self.stage {
            Stage::HalfOpen { waiting, .. } => {
                *waiting += 1;
                true
            }
            Stage::Closed { .. } | Stage::Open { .. } => false,
        };
        Some(Permit {
            phase: self.phase,
            has_place,
        })
    }

    /// Allows a request in every state; as a probe if a place is free.
    pub(super) fn acquire_anyway(&mut self, now: Instant) -> Permit {
        self.acquire(now).unwrap_or(Permit {
            phase: self.phase,
            has_place: false,
        })
    }

    /// The head of the response has arrived, so the place is free for the next probe.
    pub(super) fn answered(&mut self, permit: &mut Permit) {
        if !std::mem::take(&mut permit.has_place) || permit.phase != self.phase {
            return;
        }
        if let Stage::HalfOpen { waiting, .. } = &mut self.stage {
            *waiting = waiting.saturating_sub(1);
        }
    }

    /// Makes an open breaker half-open.
    pub(super) fn half_open(&mut self) {
        if let Stage::Open { .. } = self.stage {
            self.enter(Stage::HalfOpen {
                waiting: 0,
                succeeded: 0,
            });
        }
    }

    /// A request has ended.
    pub(super) fn settle(&mut self, permit: &mut Permit, result: RequestResult, now: Instant) {
        self.answered(permit);
        if permit.phase != self.phase {
            return;
        }
        match &mut self.stage {
            // From a request that was allowed although the breaker was open.
            Stage::Open { .. } if result == RequestResult::Success => self.half_open(),
            Stage::Open { .. } => {}
            Stage::Closed { window, in_a_row } => {
                let is_failure = match result {
                    RequestResult::Nothing => return,
                    RequestResult::Success => false,
                    RequestResult::Failure => true,
                };
                *in_a_row = if is_failure { *in_a_row + 1 } else { 0 };
                window.record(is_failure, now);
                if !is_failure {
                    return;
                }
                let is_row = self
                    .policy
                    .consecutive
                    .is_some_and(|most| *in_a_row >= most.get());
                let (requests, failures) = window.counts(now);
                let is_share = requests >= u64::from(self.policy.min_requests.get())
                    && failures as f64 >= self.policy.ratio * requests as f64;
                if is_row || is_share {
                    self.open(now);
                }
            }
            Stage::HalfOpen { succeeded, .. } => match result {
                RequestResult::Nothing => {}
                RequestResult::Failure => {
                    let longer = self.open_for.saturating_mul(2);
                    self.open_for = longer.min(self.policy.open_at_most);
                    self.open(now);
                }
                RequestResult::Success => {
                    *succeeded += 1;
                    if *succeeded >= self.policy.probes.get() {
                        self.open_for = self.policy.open_for;
                        self.enter(Stage::closed(&self.policy, now));
                    }
                }
            },
        }
    }

    fn open(&mut self, now: Instant) {
        // A time beyond the range of `Instant` counts as practically infinite.
        let until = now.checked_add(self.open_for).unwrap_or(now + FOR_EVER);
        self.enter(Stage::Open { until });
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.phase += 1;
    }
}

impl Stage {
    fn closed(policy: &BreakerPolicy, now: Instant) -> Self {
        Self::Closed {
            window: Window::new(policy.window, now),
            in_a_row: 0,
        }
    }
}
