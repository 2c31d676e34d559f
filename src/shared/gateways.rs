//! The number of gateways that divide what they do not share.

use std::num::NonZeroU32;
use std::sync::Arc;

use llamatower_layers::store::Replicas;
use tokio::sync::watch;

/// The number of gateways, as far as this one knows; 1 at first. Clones share it.
#[derive(Clone, Debug)]
pub struct Gateways {
    /// For the limits of requests and tokens, which read it for each request.
    replicas: Replicas,
    /// For the slots, which are changed when it changes.
    number: Arc<watch::Sender<NonZeroU32>>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self {
            replicas: Replicas::default(),
            number: Arc::new(watch::Sender::new(NonZeroU32::MIN)),
        }
    }
}

impl Gateways {
    /// The current number.
    pub fn number(&self) -> NonZeroU32 {
        self.replicas.get()
    }

    pub(super) fn replicas(&self) -> Replicas {
        self.replicas.clone()
    }

    /// Sets the number, and logs a change.
    pub(super) fn set(&self, number: NonZeroU32) {
        let before = self.number();
        if before != number {
            self.replicas.set(number);
            self.number.send_replace(number);
            tracing::info!(
                gateways = number,
                before,
                "the number of gateways has changed"
            );
        }
    }

    /// Calls `change` with the number and with each new one, until it is dropped.
    pub async fn each(self, change: impl Fn(NonZeroU32)) {
        let mut number = self.number.subscribe();
        number.mark_changed();
        // The sender lives as long as `self`.
        while number.changed().await.is_ok() {
            let number = *number.borrow_and_update();
            change(number);
        }
    }
}
