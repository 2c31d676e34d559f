//! The work that others put on a server, as far as the server tells it.

use super::server::Server;
use super::{Policy, ServerId, server};

/// How many requests a server has, by its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedLoad {
    /// Requests that it works on.
    pub running: u32,
    /// Requests in its own queue.
    pub waiting: u32,
}

/// What a server has told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outside {
    /// `None` if it does not tell.
    pub(crate) reported: Option<ReportedLoad>,
    /// Its requests beyond those of this gateway.
    pub(crate) others: u32,
}

impl Policy {
    /// Requests of this gateway in flight at a server.
    pub(crate) fn in_flight(&self, id: ServerId) -> u32 {
        self.server(id).map_or(0, |server| server.in_flight)
    }

    /// Records what a server has told, while it had this many requests of this gateway.
    pub(crate) fn set_reported(&mut self, id: ServerId, reported: Option<ReportedLoad>, own: u32) {
        if let Some(server) = server(&mut self.servers, id) {
            let all = reported.map_or(0, |load| load.running.saturating_add(load.waiting));
            server.outside = Outside {
                reported,
                others: all.saturating_sub(own),
            };
        }
    }
}

impl Server {
    /// The expected seconds that one more request waits in the server because of the work of others;
    /// 0 without such work. `limit` is the number of slots as the gateway knows it, and `service` the
    /// usual time of a request.
    pub(super) fn wait_for_others(&self, limit: u32, service: f64) -> f64 {
        let Outside { reported, others } = self.outside;
        let Some(load) = reported.filter(|_| others > 0) else {
            return 0.0;
        };
        // While requests wait there, it runs as many as it can.
        let capacity = match load.waiting {
            0 => limit.max(load.running),
            _ => load.running,
        };
        let capacity = f64::from(capacity.max(1));
        let occupied = f64::from(self.in_flight) + f64::from(others);
        (occupied + 1.0 - capacity).max(0.0) * service / capacity
    }
}
