//! What the metrics read from the gateway's parts.

use std::sync::Arc;

use super::{Gateway, GatewayFleet};
use crate::cloud::Cloud;
use crate::live::LiveSettings;
use crate::telemetry::BudgetUse;

impl Gateway {
    /// Tells the metrics where to read what they do not count themselves.
    pub(super) fn observe(&self, fleet: &Arc<GatewayFleet>) {
        let metrics = self.telemetry.metrics();
        let schemes: Vec<bool> = self.public.addresses().map(|(_, is_tls)| is_tls).collect();
        metrics.begin(self.endpoints.endpoints(), &schemes);
        metrics.observe(fleet.clone());
        for (audience, edge) in self.edges() {
            metrics.observe_listener(audience, edge.gauges());
        }
        metrics.observe_runtime();
        metrics.observe_reloads(self.live.last_reload.clone());
        self.live.begin_counters(metrics);
        metrics.observe_budgets(budgets(self.live.clone(), self.cloud.clone()));
        let concurrency = self.live.concurrency.clone();
        metrics.observe_key_waiting(move || concurrency.waiting());
        let state = self.kept.state.clone();
        metrics.observe_state(move || {
            let health = state.health();
            let is_wanted = health.file.is_some() || health.problem.is_some();
            is_wanted.then(|| health.is_kept())
        });
        if let Some(certificates) = self.certificates.clone() {
            metrics.observe_certificate(move || certificates.status().expires_at);
        }
        self.kept.usage.observe(fleet.clone());
        self.kept.cordons.observe(fleet.clone());
    }
}

/// The token budgets of the keys and of the cloud service.
fn budgets(live: LiveSettings, cloud: Option<Arc<Cloud>>) -> impl Fn() -> Vec<BudgetUse> {
    move || {
        let keys = live.keys.get();
        let keys = keys.identities().map(|key| key.name.clone());
        let mut uses = live.tokens.uses(keys);
        uses.extend(cloud.as_ref().and_then(|cloud| cloud.budget_use()));
        uses
    }
}
