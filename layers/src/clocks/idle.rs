//! How long a stream may be silent.

use std::time::Duration;

/// In how many parts a silence is counted.
const TICKS: u32 = 8;

/// Counts silence in ticks of one timer that is left running from frame to frame, so that a
/// frame costs neither a timer operation nor a look at the clock. It is never too early, and at
/// most an eighth of its limit late.
#[derive(Debug)]
pub(super) struct IdleClock {
    limit: Duration,
    /// Whole ticks of the silence so far, and the part of a tick that it began in.
    ticks: u32,
    is_waiting: bool,
}

impl IdleClock {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            ticks: 0,
            is_waiting: false,
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// From one ring of the timer to the next. Timers know no less than a millisecond.
    pub(super) fn tick(&self) -> Duration {
        (self.limit / TICKS).max(Duration::from_millis(1))
    }

    /// Something was heard.
    pub(super) fn heard(&mut self) {
        self.is_waiting = false;
    }

    /// Nothing is there to be heard.
    pub(super) fn silent(&mut self) {
        if !self.is_waiting {
            self.is_waiting = true;
            self.ticks = 0;
        }
    }

    /// The timer was started, not left running: its first tick is a whole one.
    pub(super) fn started(&mut self) {
        self.ticks = 1;
    }

    /// The timer has rung. Whether the silence has lasted too long.
    pub(super) fn rung(&mut self) -> bool {
        self.ticks += 1;
        self.ticks > TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_counted_from_its_beginning() {
        let mut idle = IdleClock::new(Duration::from_secs(8));
        assert_eq!(idle.tick(), Duration::from_secs(1));
        idle.silent();
        idle.started();
        assert_eq!((0..20).take_while(|_| !idle.rung()).count(), 7);
    }

    #[test]
    fn a_silence_that_begins_between_two_rings_is_not_cut_short() {
        let mut idle = IdleClock::new(Duration::from_secs(8));
        idle.silent();
        idle.started();
        assert!((0..7).all(|_| !idle.rung()));
        idle.heard();
        idle.silent();
        idle.silent();
        assert_eq!((0..20).take_while(|_| !idle.rung()).count(), 8);
    }

    #[test]
    fn the_smallest_limit_has_ticks_too() {
        assert!(IdleClock::new(Duration::ZERO).tick() > Duration::ZERO);
    }
}
