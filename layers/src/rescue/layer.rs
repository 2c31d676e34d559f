//! The layer.

use tokio::sync::watch;
use tower_layer::Layer;

use super::Rescue;

/// Makes [`Rescue`] services.
#[derive(Clone, Debug, Default)]
pub struct RescueLayer {
    cutoff: Option<watch::Receiver<bool>>,
}

impl RescueLayer {
    /// Rescues whatever fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends streams with an error frame when `cutoff` turns true: the last moment of a drain.
    pub fn with_cutoff(mut self, cutoff: watch::Receiver<bool>) -> Self {
        self.cutoff = Some(cutoff);
        self
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue {
            inner,
            cutoff: self.cutoff.clone(),
        }
    }
}
