//! Wakes the writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Tells the writer that there is something to write. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ChangeSignal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_set: AtomicBool,
    changed: Notify,
}

impl ChangeSignal {
    /// There is something to write. If this was told before, it costs one read of a shared value.
    pub fn set(&self) {
        let is_set = &self.0.is_set;
        if !is_set.load(Ordering::Relaxed) && !is_set.swap(true, Ordering::AcqRel) {
            self.0.changed.notify_one();
        }
    }

    /// Waits until there is something to write.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What has been told so far is about to be written.
    pub(super) fn clear(&self) {
        self.0.is_set.swap(false, Ordering::AcqRel);
    }
}
