//! Servers that an operator has taken out of the choice.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

#[derive(Default)]
struct Names {
    cordoned: BTreeSet<Arc<str>>,
    /// Those that an operator has cordoned or uncordoned since the start.
    changed: BTreeSet<Arc<str>>,
}

/// The names of the servers that operators have taken out of the choice. Clones share them.
#[derive(Clone, Default)]
pub struct Cordons {
    names: Arc<Mutex<Names>>,
    hook: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Cordons {
    /// Calls `hook` after each change.
    pub fn with_hook(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            names: Arc::default(),
            hook: Some(Arc::new(hook)),
        }
    }

    /// The names, sorted. They can be of servers that are not known yet, or not any more.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.lock().cordoned.iter().cloned().collect()
    }

    /// Adds names of an earlier run, except those that an operator has changed since. The servers of a
    /// fleet that exists already are not told.
    pub fn restore(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let Names { cordoned, changed } = &mut *self.lock();
        let unchanged = names.into_iter().filter(|name| !changed.contains(name));
        cordoned.extend(unchanged);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.lock().cordoned.contains(name)
    }

    pub(crate) fn set(&self, name: &str, is_cordoned: bool) {
        let mut names = self.lock();
        names.changed.insert(name.into());
        let is_changed = match is_cordoned {
            true => names.cordoned.insert(name.into()),
            false => names.cordoned.remove(name),
        };
        drop(names);
        if let Some(hook) = self.hook.as_ref().filter(|_| is_changed) {
            hook();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cordons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cordons").field(&self.names()).finish()
    }
}

impl<S> Fleet<S> {
    /// Divides the configured slots of each server, and its requests in flight, by the number of gateways
    /// that use the servers. Requests in flight go on.
    pub fn divide_slots(&self, gateways: NonZeroU32) {
        self.router
            .change(|policy| policy.divide_slots(gateways.get()));
        self.queue.slots_changed();
    }

    /// Takes the server with this name out of the choice, or back into it. Requests in flight go on;
    /// those that wait are offered the other servers. Returns whether there is such a server.
    pub fn set_cordoned(&self, name: &str, is_cordoned: bool) -> bool {
        let members = self.catalogue.members();
        let mut all = members.all().iter();
        let cordons = &self.config.cordons;
        let Some(member) = all.find(|member| **member.backend.name() == *name) else {
            // It may have been cordoned before a restart, and have left since.
            if !is_cordoned {
                cordons.set(name, false);
            }
            return false;
        };
        cordons.set(name, is_cordoned);
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
