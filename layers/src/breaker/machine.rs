//! The breaker as plain book-keeping.

use std::time::Duration;

use tokio::time::Instant;

use super::BreakerPolicy;
use super::window::Window;

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// All requests pass.
    Closed,
    /// None does.
    Open,
    /// Single ones do.
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

/// What a request said of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    Failure,
    Nothing,
}

/// What a request was let through with.
#[derive(Debug)]
pub(super) struct Leave {
    /// The phase it was given in; what comes of it says nothing of another.
    phase: u64,
    /// Whether it takes one of the places for probes.
    pub(super) has_place: bool,
}

/// Some thirty years.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The state machine. It has no clock: who calls says what time it is.
#[derive(Debug)]
pub(super) struct Machine {
    policy: BreakerPolicy,
    phase: u64,
    stage: Stage,
    /// How long it is open the next time.
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
    pub(super) fn is_current(&self, leave: &Leave) -> bool {
        leave.phase == self.phase
    }

    pub(super) fn state(&self) -> State {
        match self.stage {
            Stage::Closed { .. } => State::Closed,
            Stage::Open { .. } => State::Open,
            Stage::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// After how long a request may be let through; `None` if it may now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        match self.stage {
            Stage::Closed { .. } => None,
            Stage::Open { until } => {
                let left = until.saturating_duration_since(now);
                (!left.is_zero()).then_some(left)
            }
            Stage::HalfOpen { waiting, .. } if waiting < self.policy.probes.get() => None,
            // How long a probe waits is not known.
            Stage::HalfOpen { .. } => Some(self.policy.open_for),
        }
    }

    /// Lets a request through, if all may.
    pub(super) fn acquire_closed(&self) -> Option<Leave> {
        let is_closed = matches!(self.stage, Stage::Closed { .. });
        is_closed.then_some(Leave {
            phase: self.phase,
            has_place: false,
        })
    }

    /// Lets a request through, if it may.
    pub(super) fn acquire(&mut self, now: Instant) -> Option<Leave> {
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
        Some(Leave {
            phase: self.phase,
            has_place,
        })
    }

    /// Lets a request through in any state; as a probe, if there is a place for one.
    pub(super) fn acquire_anyway(&mut self, now: Instant) -> Leave {
        self.acquire(now).unwrap_or(Leave {
            phase: self.phase,
            has_place: false,
        })
    }

    /// The head of the answer has come: the place goes to the next probe.
    pub(super) fn answered(&mut self, leave: &mut Leave) {
        if !std::mem::take(&mut leave.has_place) || leave.phase != self.phase {
            return;
        }
        if let Stage::HalfOpen { waiting, .. } = &mut self.stage {
            *waiting = waiting.saturating_sub(1);
        }
    }

    /// Lets probes through from now on, if it is open.
    pub(super) fn half_open(&mut self) {
        if let Stage::Open { .. } = self.stage {
            self.enter(Stage::HalfOpen {
                waiting: 0,
                succeeded: 0,
            });
        }
    }

    /// A request that was let through has ended.
    pub(super) fn settle(&mut self, leave: &mut Leave, verdict: Verdict, now: Instant) {
        self.answered(leave);
        if leave.phase != self.phase {
            return;
        }
        match &mut self.stage {
            // Of a request that was let through all the same.
            Stage::Open { .. } if verdict == Verdict::Success => self.half_open(),
            Stage::Open { .. } => {}
            Stage::Closed { window, in_a_row } => {
                let is_failure = match verdict {
                    Verdict::Nothing => return,
                    Verdict::Success => false,
                    Verdict::Failure => true,
                };
                *in_a_row = if is_failure { *in_a_row + 1 } else { 0 };
                window.note(is_failure, now);
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
            Stage::HalfOpen { succeeded, .. } => match verdict {
                Verdict::Nothing => {}
                Verdict::Failure => {
                    let longer = self.open_for.saturating_mul(2);
                    self.open_for = longer.min(self.policy.open_at_most);
                    self.open(now);
                }
                Verdict::Success => {
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
        // Longer than an `Instant` can hold is for as long as anybody will wait.
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
