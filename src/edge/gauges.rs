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
    pub(super) refused_heads: AtomicU64,
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
    /// Requests that were refused before they were read: too large, too late, or no HTTP/1.
    pub fn refused_heads(&self) -> u64 {
        self.refused_heads.load(Relaxed)
    }
    /// Times the system had no socket for a connection that was waiting.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }
}

/// An open connection; dropped with it.
#[derive(Debug)]
pub(super) struct Open(Arc<Gauges>);

impl Gauges {
    pub(super) fn open(self: Arc<Self>) -> Open {
        self.connections.fetch_add(1, Relaxed);
        Open(self)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
