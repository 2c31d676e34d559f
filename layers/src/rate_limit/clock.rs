//! tokio's clock, as governor asks for it.

use governor::clock::Clock;
use governor::nanos::Nanos;
use tokio::time::Instant;

/// Counts from its making. It follows the runtime's clock, also where a test pauses that.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokioClock {
    epoch: Instant,
}

impl TokioClock {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.epoch.elapsed())
    }
}
