//! A request that runs a model, from its choice to the end of its response.

use std::sync::{Arc, Mutex, PoisonError};

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::policy::{FlightId, Grant, Report};
use super::router::Router;

/// A request that runs a model. It ends for the policy when the last clone is dropped: a load may
/// outlive the request that began it.
#[derive(Clone, Debug)]
pub(super) struct Flight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: ModelName,
    id: FlightId,
    router: Router,
    loads: bool,
    num_ctx: Option<u64>,
    report: Mutex<Option<Report>>,
}

impl Flight {
    /// The flight of a choice.
    pub(super) fn new(model: ModelName, grant: &Grant, router: Router) -> Self {
        Self(Arc::new(Inner {
            model,
            id: grant.flight,
            router,
            loads: grant.loads,
            num_ctx: grant.num_ctx,
            report: Mutex::default(),
        }))
    }

    /// The model.
    pub(super) fn model(&self) -> &ModelName {
        &self.0.model
    }

    /// Whether the request loads the model.
    pub(super) fn loads(&self) -> bool {
        self.0.loads
    }

    /// The `num_ctx` to send.
    pub(super) fn num_ctx(&self) -> Option<u64> {
        self.0.num_ctx
    }

    /// The number of requests that wait for the model.
    pub(super) fn waiting(&self) -> usize {
        self.0.router.change(|policy| policy.waiting(&self.0.model))
    }

    /// Records the first byte of a good response. Returns whether the models in memory have to be
    /// read again, and the number of requests that wait for the model.
    pub(super) fn first_byte(&self) -> (bool, usize) {
        let (inner, now) = (&*self.0, Instant::now());
        inner.router.change(|policy| {
            let has_changed = policy.first_byte(&inner.model, inner.id, now);
            (has_changed, policy.waiting(&inner.model))
        })
    }

    /// Keeps what the response said at its end.
    pub(super) fn complete(&self, report: Report) {
        *self.0.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let report = self
            .report
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let (report, now) = (report.take(), Instant::now());
        let (model, id) = (&self.model, self.id);
        self.router
            .change(|policy| policy.end(model, id, report, now));
    }
}
