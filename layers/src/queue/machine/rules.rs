//! The limits and rules of a queue.

use std::time::Duration;

use tokio::time::Instant;

use super::class_queue::Ageing;
use crate::queue::QueueLimitNames;

/// The limits and rules of a queue, the same for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// The maximum number of waiting requests of one class; default 512, as in Ollama.
    pub max_waiting: usize,
    /// The maximum number of waiting requests of one key in one class; by default not limited.
    pub max_waiting_per_key: Option<usize>,
    /// The maximum predicted wait; a request beyond it is refused at once. Default 5 minutes. See
    /// [`Queue::with_max_predicted_wait`](crate::queue::Queue::with_max_predicted_wait).
    pub max_predicted_wait: Option<Duration>,
    /// The maximum real wait. Default 5 minutes. [`Queue`](crate::queue::Queue) keeps it;
    /// [`ClassQueues`](super::ClassQueues) has no timers and leaves it to its caller.
    pub max_wait: Option<Duration>,
    /// The wait after which a request rises by one priority; default 30 s. See
    /// [`Queue::with_ageing`](crate::queue::Queue::with_ageing).
    pub ageing: Option<Duration>,
    /// The service time to assume for a class until four of its slots were released.
    pub assumed_service: Option<Duration>,
    /// The names of the limits in the texts of errors.
    pub names: &'static QueueLimitNames,
}

impl Rules {
    pub(super) fn at(&self, now: Instant) -> Ageing {
        Ageing {
            now,
            step: self.ageing,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            // Ollama's own OLLAMA_MAX_QUEUE.
            max_waiting: 512,
            max_waiting_per_key: None,
            max_predicted_wait: Some(Duration::from_secs(300)),
            max_wait: Some(Duration::from_secs(300)),
            ageing: Some(Duration::from_secs(30)),
            assumed_service: None,
            names: &QueueLimitNames::DEFAULT,
        }
    }
}
