//! Servers that an operator has taken out of the choice.

use std::sync::Arc;

use http::StatusCode;
use llamatower_layers::{Fail, Side};

use super::Fleet;

/// All servers that could serve the request are cordoned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "all servers that could serve this request are cordoned by an operator ({servers}); try again later"
)]
pub struct Cordoned {
    servers: String,
}

impl Cordoned {
    pub(super) fn new(servers: &[Arc<str>]) -> Self {
        Self {
            servers: servers.join(", "),
        }
    }
}

impl Fail for Cordoned {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "cordoned"
    }
}

impl<S> Fleet<S> {
    /// Takes the server with this name out of the choice, or back into it. Requests in flight go on;
    /// those that wait are offered the other servers. Returns whether there is such a server.
    pub fn set_cordoned(&self, name: &str, is_cordoned: bool) -> bool {
        let members = self.catalogue.members();
        let mut all = members.all().iter();
        let Some(member) = all.find(|member| **member.backend.name() == *name) else {
            return false;
        };
        if member.backend.set_cordoned(is_cordoned) != is_cordoned {
            match is_cordoned {
                true => tracing::warn!(backend = name, "the backend is cordoned"),
                false => tracing::info!(backend = name, "the backend is no longer cordoned"),
            }
            self.catalogue.note_cordon();
            self.queue.slots_changed();
        }
        true
    }
}
