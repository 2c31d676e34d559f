//! Idle connections to one backend.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use llamatower_layers::BoxError;
use tokio::time::Instant;

use super::Address;
use super::connection::Connection;

/// How many idle connections are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Limit of idle connections; further ones are closed.
    pub max_idle: usize,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
}

/// The state of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Idle connections.
    pub idle: usize,
    /// The number of idle connections that the backend has closed so far, as far as it was noticed.
    pub closed_by_backend: u64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            max_idle: 128,
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// The idle connections, most recently used last.
pub(super) struct Pool<B: Body + 'static> {
    address: Address,
    limits: PoolLimits,
    idle: Mutex<Vec<Idle<B>>>,
    /// Those that the backend has closed while they were idle.
    closed_by_backend: AtomicU64,
}

struct Idle<B: Body + 'static> {
    connection: Connection<B>,
    since: Instant,
}

impl<B: Body + 'static> Pool<B> {
    pub(super) fn new(address: Address, limits: PoolLimits) -> Self {
        Self {
            address,
            limits,
            idle: Mutex::new(Vec::new()),
            closed_by_backend: AtomicU64::new(0),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn len(&self) -> usize {
        self.idle().len()
    }

    pub(super) fn closed_by_backend(&self) -> u64 {
        self.closed_by_backend.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        let condemned = std::mem::take(&mut *self.idle());
        drop(condemned);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<B>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Takes the most recently used connection that is still open.
    pub(super) fn check_out(&self) -> Option<Connection<B>> {
        loop {
            let Idle {
                mut connection,
                since,
            } = self.idle().pop()?;
            if self.is_usable(&mut connection, since) {
                return Some(connection);
            }
        }
    }

    fn is_usable(&self, connection: &mut Connection<B>, since: Instant) -> bool {
        if since.elapsed() >= self.limits.idle_timeout {
            return false;
        }
        let is_open = connection.is_idle();
        if !is_open {
            self.closed_by_backend.fetch_add(1, Ordering::Relaxed);
        }
        is_open
    }

    /// Keeps a connection whose response was read to its end. Closes it if it cannot be used again
    /// or the pool is full.
    pub(super) fn check_in(&self, mut connection: Connection<B>) {
        if !connection.rest() {
            return;
        }
        let since = Instant::now();
        let mut idle = self.idle();
        if idle.len() < self.limits.max_idle {
            idle.push(Idle { connection, since });
        }
    }

    /// Closes connections that were idle for too long or that the backend has closed.
    pub(super) fn prune(&self) {
        let waiting = std::mem::take(&mut *self.idle());
        for Idle {
            mut connection,
            since,
        } in waiting
        {
            if self.is_usable(&mut connection, since) {
                let mut idle = self.idle();
                let place = idle.partition_point(|other| other.since <= since);
                idle.insert(place, Idle { connection, since });
            }
        }
    }
}

impl<B: Body + 'static> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limits", &self.limits)
            .field("idle", &self.len())
            .finish()
    }
}
