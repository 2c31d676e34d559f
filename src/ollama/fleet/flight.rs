//! A request that runs a model, from its choice to the end of its response.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::policy::{Grant, Report, SlotsLearned};
use super::router::Router;
use crate::shared::{Lease, OwnLoad};

/// A request that runs a model. It ends for the policy when the last clone is dropped: a load may
/// outlive the request that began it.
#[derive(Clone, Debug)]
pub(super) struct Flight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: ModelName,
    grant: Grant,
    router: Router,
    report: Mutex<Option<Report>>,
    /// The answer was no good response: the model has not run.
    has_failed: AtomicBool,
    /// The slot, if gateways share it.
    lease: Mutex<Option<Lease>>,
    /// The load, if other gateways know of it, until it is complete.
    load: Mutex<Option<OwnLoad>>,
}

impl Flight {
    /// The flight of a choice.
    pub(super) fn new(model: ModelName, grant: Grant, router: Router) -> Self {
        Self(Arc::new(Inner {
            model,
            grant,
            router,
            report: Mutex::default(),
            has_failed: AtomicBool::default(),
            lease: Mutex::default(),
            load: Mutex::default(),
        }))
    }

    /// The model.
    pub(super) fn model(&self) -> &ModelName {
        &self.0.model
    }

    /// The choice of the server.
    pub(super) fn grant(&self) -> &Grant {
        &self.0.grant
    }

    /// Whether the request loads the model.
    pub(super) fn loads(&self) -> bool {
        self.0.grant.loads
    }

    /// Whether the server may have to load a model before it can answer the request.
    pub(super) fn may_load(&self) -> bool {
        self.0.grant.may_load
    }

    /// The `num_ctx` to send.
    pub(super) fn num_ctx(&self) -> Option<u64> {
        self.0.grant.num_ctx
    }

    /// The number of requests that wait for the model.
    pub(super) fn waiting(&self) -> usize {
        self.0.router.change(|policy| policy.waiting(&self.0.model))
    }

    /// Records the first byte of a good response. Returns whether the models in memory have to be
    /// read again, and the number of requests that wait for the model.
    pub(super) fn first_byte(&self, now: Instant) -> (bool, usize) {
        let inner = &*self.0;
        let (learned, has_changed, waiting) = inner.router.change(|policy| {
            let (has_changed, learned) = policy.first_byte(&inner.model, inner.grant.flight, now);
            (learned, has_changed, policy.waiting(&inner.model))
        });
        inner.log_slots(learned);
        let mut load = inner.load.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = load.take() {
            load.complete();
        }
        drop(load);
        (has_changed, waiting)
    }

    /// Tells that the request has loaded the model.
    pub(super) fn tell_loaded(&self, backend: &Arc<str>) {
        if let Some(loads) = self.0.router.loads() {
            loads.loaded(backend, &self.0.model);
        }
    }

    /// Keeps the lease of the slot until the request ends.
    pub(super) fn hold(&self, lease: Lease) {
        *self.0.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Keeps the load until it is complete or the request ends.
    pub(super) fn hold_load(&self, load: OwnLoad) {
        *self.0.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
    }

    /// Records that the answer was an error, or that there is none.
    pub(super) fn fail(&self) {
        self.0.has_failed.store(true, Ordering::Relaxed);
    }

    /// Whether the answer was an error, or there is none. A client that has left leaves this open.
    pub(super) fn has_failed(&self) -> bool {
        self.0.has_failed.load(Ordering::Relaxed)
    }

    /// Keeps what the response said at its end.
    pub(super) fn complete(&self, report: Report) {
        *self.0.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

impl Inner {
    fn log_slots(&self, learned: Option<SlotsLearned>) {
        if let Some(SlotsLearned { server, slots }) = learned {
            let model = &self.model;
            tracing::info!(backend = %server, %model, slots, "the slots of a model were learned");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let report = self
            .report
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let (report, now) = (report.take(), Instant::now());
        let (model, id) = (&self.model, self.grant.flight);
        let (learned, backend) = self.router.change(|policy| {
            let learned = policy.end(model, id, report, now);
            let backend = self.grant.loads.then(|| policy.name(self.grant.server));
            (learned, backend.flatten().cloned())
        });
        self.log_slots(learned);
        let phases = report.and_then(|report| report.phases);
        if let (Some(backend), Some(phases), Some(loads)) = (backend, phases, self.router.loads()) {
            loads.load_took(&backend, model, phases.load);
        }
    }
}
