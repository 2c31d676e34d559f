//! Idle connections to one backend.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Address;
use super::link::is_idle;

/// How many idle connections are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// The most connections that wait at a time; further ones are closed.
    pub max_idle: usize,
    /// How long a connection may wait.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            max_idle: 128,
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// The connections that wait for a request, the one used last on top.
pub(super) struct Pool {
    address: Address,
    limits: PoolLimits,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Pool {
    pub(super) fn new(address: Address, limits: PoolLimits) -> Self {
        Self {
            address,
            limits,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn len(&self) -> usize {
        self.idle().len()
    }

    pub(super) fn clear(&self) {
        let condemned = std::mem::take(&mut *self.idle());
        drop(condemned);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still open.
    pub(super) fn check_out(&self) -> Option<TcpStream> {
        loop {
            let Idle { stream, since } = self.idle().pop()?;
            if since.elapsed() < self.limits.idle_timeout && is_idle(&stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection whose answer was read to the end; closes it if enough are waiting.
    pub(super) fn check_in(&self, stream: TcpStream) {
        let since = Instant::now();
        let mut idle = self.idle();
        if idle.len() < self.limits.max_idle {
            idle.push(Idle { stream, since });
        }
    }

    /// Closes what waits too long and what the backend has closed.
    pub(super) fn prune(&self) {
        let waiting = std::mem::take(&mut *self.idle());
        for Idle { stream, since } in waiting {
            if since.elapsed() < self.limits.idle_timeout && is_idle(&stream) {
                let mut idle = self.idle();
                let place = idle.partition_point(|other| other.since <= since);
                idle.insert(place, Idle { stream, since });
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limits", &self.limits)
            .field("idle", &self.len())
            .finish()
    }
}
