//! The layer. It owns the count.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tower_layer::Layer;

use super::AdmissionService;
use super::permit::Cap;
use crate::order;

/// Refuses requests beyond a number of concurrent requests. See the [module](super).
///
/// All services of one layer and its clones share one count.
#[derive(Clone)]
pub struct AdmissionLayer {
    cap: Arc<Cap>,
}

impl AdmissionLayer {
    /// Admits up to `max` requests at a time.
    pub fn new(max: NonZeroUsize) -> Self {
        Self { cap: Cap::new(max) }
    }

    /// The limit of concurrent requests.
    pub fn max(&self) -> NonZeroUsize {
        self.cap.max()
    }

    /// The number of concurrent requests, each from its admission to the end of its response.
    pub fn in_flight(&self) -> usize {
        self.cap.in_flight()
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = AdmissionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("Admission");
        AdmissionService {
            inner,
            cap: self.cap.clone(),
        }
    }
}

impl fmt::Debug for AdmissionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionLayer")
            .field("max", &self.max())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}
