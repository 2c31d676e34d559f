//! What the gateway exchanges with others of the same service.

use std::sync::Arc;

use super::{Gateway, GatewayFleet, Tasks};
use crate::clients::concurrency;
use crate::edge::machine_name;
use crate::shared::{About, Membership, Peers};
use crate::telemetry::{FleetView, SharedUse};
use crate::version;

impl Gateway {
    /// Starts what gateways exchange, and tells the metrics.
    pub(super) fn share(&self, fleet: &Arc<GatewayFleet>, tasks: &Tasks) {
        let (sharing, backends) = (&self.sharing, &self.settings.backends);
        let peers = self.settings.sharing.peers.as_ref();
        if let Some(peers) = peers {
            let (servers, min_ttl) = (backends.dns_servers.clone(), backends.dns_min_ttl);
            let peers = Peers::new(peers, servers, min_ttl, sharing.gateways().clone());
            tasks.spawn_until_stopped(peers.run());
        }
        let counted = peers.is_none().then(|| sharing.gateways().clone());
        let (cordons, about) = (self.kept.cordons.cordons(), self.about(fleet.clone()));
        if let Some(membership) = Membership::new(sharing, counted, cordons, fleet.clone(), about) {
            tasks.spawn_until_stopped(membership.run());
        }
        if self.is_divided() {
            let concurrency = self.live.concurrency.clone();
            let dividing = sharing.gateways().clone();
            let dividing = dividing.each(move |number| concurrency::divide(&concurrency, number));
            tasks.spawn_until_stopped(dividing);
        }
        self.share_slots(fleet, tasks);
        if let Some(service) = sharing.service() {
            let fleet = fleet.clone();
            tasks.spawn_until_stopped(async move {
                tokio::join!(fleet.share_fairness(service), fleet.share_loads());
            });
        }
        if let Some(usage) = self.kept.shared_usage.clone() {
            tasks.spawn_until_stopped(usage.run());
        }
        self.observe_sharing();
    }

    /// Whether limits and slots are divided by the number of gateways when nothing better is known.
    fn is_divided(&self) -> bool {
        self.settings.sharing.peers.is_some() || self.sharing.redis().is_some()
    }

    /// Slots are leased, or divided by the number of gateways.
    fn share_slots(&self, fleet: &Arc<GatewayFleet>, tasks: &Tasks) {
        let divided = fleet.clone();
        if let Some(leases) = self.sharing.leases() {
            tasks.spawn_until_stopped(leases.clone().run());
            let dividing = leases.clone();
            let dividing = dividing.each_divisor(move |number| divided.divide_slots(number));
            tasks.spawn_until_stopped(dividing);
            let watching = fleet.clone();
            tasks.spawn_until_stopped(async move { watching.watch_full_lanes().await });
        } else if self.is_divided() {
            let dividing = self.sharing.gateways().clone();
            let dividing = dividing.each(move |number| divided.divide_slots(number));
            tasks.spawn_until_stopped(dividing);
        }
    }

    fn observe_sharing(&self) {
        let (sharing, is_divided) = (self.sharing.clone(), self.is_divided());
        let (tokens, users) = (
            self.live.tokens.used.clone(),
            self.live.user_tokens.used.clone(),
        );
        let cloud = self.cloud.clone();
        self.telemetry.metrics().observe_shared(move || SharedUse {
            gateways: is_divided.then(|| sharing.gateways().number().get()),
            is_connected: sharing.redis().map(|redis| redis.is_connected()),
            dropped_settlements: sharing.redis().map(|_| {
                let of_cloud = cloud
                    .as_ref()
                    .map_or(0, |cloud| cloud.dropped_settlements());
                let of_keys = tokens.dropped_settlements();
                let of_users = users.dropped_settlements();
                of_keys.saturating_add(of_users).saturating_add(of_cloud)
            }),
        });
    }

    /// What this gateway tells the others of itself.
    fn about(&self, fleet: Arc<dyn FleetView>) -> impl Fn() -> About + Send + Sync + 'static {
        let address = self.public.addresses().next();
        let known = About {
            host: machine_name().unwrap_or_default(),
            address: address
                .map(|(address, _)| address.to_string())
                .unwrap_or_default(),
            version: version::VERSION.to_owned(),
            ..About::default()
        };
        let clients = self.public.gauges();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        move || About {
            in_flight: number(clients.in_flight()),
            waiting: number(fleet.queue_status().iter().map(|row| row.waiting).sum()),
            is_draining: clients.is_draining(),
            ..known.clone()
        }
    }
}
