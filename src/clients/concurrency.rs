//! How many requests of a client run at a time.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::request::Parts;
use llamatower_layers::key_concurrency::{ConcurrencyLimits, KeyConcurrencyLayer, KeyLimits};
use llamatower_layers::live::Live;
use llamatower_layers::store::Replicas;

use super::Client;
use crate::settings::{KeyLimit, Limits, Settings};

/// Limits the inference requests of each client that run at a time; those of users of a key count for
/// the user and for the key.
pub type ClientConcurrencyLayer = KeyConcurrencyLayer<ClientConcurrency>;

/// The limits of all clients. Other gateways serve the same clients, so each of them has its part.
#[derive(Debug, Default)]
pub struct ClientConcurrency {
    are_any: AtomicBool,
    limits: Live<ByClient>,
    gateways: Replicas,
}

#[derive(Debug, Default)]
struct ByClient {
    own: BTreeMap<Arc<str>, Option<NonZeroU32>>,
    others: Option<NonZeroU32>,
    users: Option<NonZeroU32>,
}

impl ByClient {
    fn new(limits: &Limits) -> Self {
        let own = limits.key_limits.iter();
        let own = own.filter_map(|(name, limits)| {
            let limit = match limits.concurrency {
                KeyLimit::General => return None,
                KeyLimit::Off => None,
                KeyLimit::Of(limit) => Some(limit),
            };
            Some((name.clone(), limit))
        });
        Self {
            own: own.collect(),
            others: limits.key_concurrency,
            users: limits.user_concurrency,
        }
    }

    fn are_any(&self) -> bool {
        let others = [self.others, self.users];
        others.iter().chain(self.own.values()).any(Option::is_some)
    }

    fn of(&self, client: &Client) -> Option<NonZeroU32> {
        match client {
            Client::Key(name) => *self.own.get(name).unwrap_or(&self.others),
            Client::User(_) => self.users,
            Client::Address(_) => self.others,
        }
    }
}

impl ClientConcurrency {
    /// The layer with the limits of `settings`. Requests wait as long, and as many, as in the queue for
    /// slots.
    pub fn layer(settings: &Settings) -> ClientConcurrencyLayer {
        let limits = Self::default();
        limits.set(&settings.limits);
        let queue = &settings.queue;
        let max_waiting = queue.max_waiting_per_key.unwrap_or(queue.max_waiting);
        KeyConcurrencyLayer::new(limits)
            .with_max_waiting(Some(max_waiting.get()))
            .with_max_wait(queue.max_wait)
    }

    fn set(&self, limits: &Limits) {
        let limits = ByClient::new(limits);
        self.are_any.store(limits.are_any(), Ordering::Relaxed);
        self.limits.set(limits);
    }

    /// This gateway's part of a client's limit.
    fn limit_of(&self, client: &Client) -> Option<NonZeroU32> {
        let limit = self.limits.get().of(client)?;
        let part = self.gateways.share(u64::from(limit.get()));
        u32::try_from(part).ok().and_then(NonZeroU32::new)
    }
}

impl ConcurrencyLimits for ClientConcurrency {
    type Key = Client;

    fn are_any(&self) -> bool {
        self.are_any.load(Ordering::Relaxed)
    }

    fn of(&self, request: &Parts) -> KeyLimits<Client> {
        if !crate::live::runs_a_model(request) {
            return KeyLimits::new();
        }
        let clients = [Client::user_of(request), Client::account_of(request)];
        let clients = clients.into_iter().flatten();
        let limits = clients.filter_map(|client| {
            let limit = self.limit_of(&client)?;
            Some((client, limit))
        });
        limits.collect()
    }
}

/// Applies other limits, also to the requests that wait.
pub(crate) fn set(layer: &ClientConcurrencyLayer, limits: &Limits) {
    layer.limits().set(limits);
    layer.set_limits(|client| layer.limits().limit_of(client));
}

/// Divides the limits by the number of gateways.
pub(crate) fn divide(layer: &ClientConcurrencyLayer, gateways: NonZeroU32) {
    layer.limits().gateways.set(gateways);
    layer.set_limits(|client| layer.limits().limit_of(client));
}
