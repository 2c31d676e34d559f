//! The permit and the measurement of a request.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::LimitReached;
use super::controller::{Controller, Sample};

/// The controller that all services of a layer share.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Controller>>);

impl Shared {
    pub(super) fn new(controller: Controller) -> Self {
        Self(Arc::new(Mutex::new(controller)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Controller> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_admit(&self) -> Result<Permit, LimitReached> {
        self.lock().try_admit()?;
        Ok(Permit(self.clone()))
    }

    pub(super) fn start_measurement(&self, sent: Instant) -> Measurement {
        Measurement(Some((self.clone(), sent)))
    }
}

/// The permit of one request. Dropping it releases the permit.
pub struct Permit(Shared);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().leave();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// The measurement of one request. If it is dropped before its end, the request was cancelled.
#[derive(Debug, Default)]
pub(super) struct Measurement(Option<(Shared, Instant)>);

impl Measurement {
    /// The measurement of a request that is not measured.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn first_byte(&mut self) {
        self.end(|sent, now| Sample::FirstByte(now - sent));
    }

    pub(super) fn overloaded(&mut self) {
        self.end(|_, _| Sample::Overloaded);
    }

    /// The request ended before its first byte: if that was after the target time, it is late.
    pub(super) fn end_without_byte(&mut self) {
        self.end(|sent, now| Sample::Cancelled(now - sent));
    }

    /// Drops the measurement: the failure shows nothing about the load.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    fn end(&mut self, sample: impl FnOnce(Instant, Instant) -> Sample) {
        if let Some((shared, sent)) = self.0.take() {
            let now = Instant::now();
            shared.lock().note(sent, sample(sent, now), now);
        }
    }
}

impl Drop for Measurement {
    fn drop(&mut self) {
        self.end_without_byte();
    }
}
