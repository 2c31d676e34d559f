//! Counts of an edge, for metrics and for its drain.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

/// Counts of an edge, for metrics and for its drain.
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) draining: AtomicBool,
    pub(super) connections: AtomicUsize,
    pub(super) in_flight: AtomicUsize,
    pub(super) finished: AtomicU64,
    pub(super) refused_connections: AtomicU64,
    pub(super) accept_errors: AtomicU64,
}

impl Gauges {
    /// Whether the edge has begun to drain; `/health` says so.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
    /// Requests whose answer has not come to its end.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }
    /// Requests that have ended, one way or another.
    pub fn finished(&self) -> u64 {
        self.finished.load(Relaxed)
    }
    /// Connections that were turned away because there were too many.
    pub fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Relaxed)
    }
    /// Times the system had no socket for a connection that was waiting.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }
}

/// A request under way; dropped at the end of its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    gauges: Arc<Gauges>,
}

impl InFlight {
    pub(super) fn new(gauges: &Arc<Gauges>) -> Self {
        gauges.in_flight.fetch_add(1, Relaxed);
        Self {
            gauges: gauges.clone(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauges.in_flight.fetch_sub(1, Relaxed);
        self.gauges.finished.fetch_add(1, Relaxed);
    }
}
