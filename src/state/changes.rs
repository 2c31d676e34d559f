//! What is written and restored.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use llamatower_layers::token_limit::Window;

/// The number of counts of a row of usage. The module `usage` gives them their meaning. A change needs
/// a new number of the format.
pub const COUNTS: usize = 10;

/// The counts of a row of usage.
pub type Counts = [u64; COUNTS];

/// A row of usage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UsageKey {
    /// The day, like 20261130.
    pub day: i32,
    /// The name of the API key.
    pub key: Arc<str>,
    /// The model.
    pub model: Arc<str>,
}

/// Identifies the count of a token window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowKey {
    /// Which limit it belongs to.
    pub limit: Arc<str>,
    /// Whose tokens are counted.
    pub account: String,
    /// A day or a month; shorter windows are not kept.
    pub window: Window,
}

/// The tokens that were used in a window. The times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowCount {
    /// When it began.
    pub start: i64,
    /// When it ends.
    pub end: i64,
    /// The used tokens.
    pub used: u64,
}

/// Changes that are not written yet.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// To be added to the rows.
    pub usage: HashMap<UsageKey, Counts>,
    /// They replace the rows.
    pub windows: HashMap<WindowKey, WindowCount>,
    /// The names of all cordoned servers, if they have changed.
    pub cordons: Option<Vec<Arc<str>>>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.usage.is_empty() && self.windows.is_empty() && self.cordons.is_none()
    }

    /// Adds counts to a row of usage.
    pub fn add_usage(&mut self, key: UsageKey, counts: &Counts) {
        add(self.usage.entry(key).or_default(), counts);
    }

    pub(super) fn clear(&mut self) {
        // The next changes are of the same rows, so the memory is kept, unless it is much.
        match self.usage.len() > 1000 {
            true => self.usage = HashMap::new(),
            false => self.usage.clear(),
        }
        self.windows.clear();
        self.cordons = None;
    }
}

/// What was in the file at the start, besides usage.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The token windows.
    pub windows: Vec<(WindowKey, WindowCount)>,
    /// The names of cordoned servers.
    pub cordons: Vec<Arc<str>>,
}

/// Something whose changes are kept over a restart.
pub trait Persist: Send + Sync {
    /// Moves the changes since the last call.
    fn take_changes(&self, changes: &mut Changes);

    /// Takes its part of what was stored, before the gateway serves.
    fn restore(&self, stored: &Restored) {
        let _ = stored;
    }

    /// Adds its part of what was stored to what has been counted since the start, because the file was
    /// opened late.
    fn merge(&self, stored: &Restored) {
        self.restore(stored);
    }
}

/// Adds each count to that of `total`.
pub fn add(total: &mut Counts, more: &Counts) {
    for (total, more) in total.iter_mut().zip(more) {
        *total = total.saturating_add(*more);
    }
}
