//! tokio's clock for governor.

use governor::clock::Clock;
use governor::nanos::Nanos;
use tokio::time::Instant;

/// Counts from its creation. It follows the runtime's clock, which a test can pause.
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
