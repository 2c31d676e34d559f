//! The response cache, the token budgets and what is kept over a restart, queried at each export.

use std::sync::{Arc, OnceLock};

use llamatower_layers::cache::{CacheCounts, CacheLayer};
use llamatower_layers::live::Live;
use llamatower_layers::token_limit::Window;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::names;
use super::observed::{counter, gauge};
use crate::live::LastReload;

/// The cache, once it is set.
pub(super) type Cache = Arc<OnceLock<CacheLayer>>;

/// The budgets, once they are set.
pub(super) type Budgets = Arc<OnceLock<Box<dyn Fn() -> Vec<BudgetUse> + Send + Sync>>>;

/// How many requests wait for their client's turn, once it is set.
pub(super) type KeyWaiting = Arc<OnceLock<Box<dyn Fn() -> usize + Send + Sync>>>;

/// The last reload of the settings, once it is set.
pub(super) type LastReloads = Arc<OnceLock<Live<Option<LastReload>>>>;

/// Whether what a restart needs is written, once it is set; `None` if it need not be.
pub(super) type StateWritten = Arc<OnceLock<Box<dyn Fn() -> Option<bool> + Send + Sync>>>;

/// When the certificate in force expires, in seconds of Unix time, once it is set.
pub(super) type CertificateExpiry = Arc<OnceLock<Box<dyn Fn() -> i64 + Send + Sync>>>;

/// What gateways share, once it is set.
pub(super) type Shared = Arc<OnceLock<Box<dyn Fn() -> SharedUse + Send + Sync>>>;

/// What gateways share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedUse {
    /// The number of gateways; `None` if it is not known.
    pub gateways: Option<u32>,
    /// Whether Redis is connected; `None` if it is not used.
    pub is_connected: Option<bool>,
    /// The settlements of tokens that were dropped; `None` if Redis is not used.
    pub dropped_settlements: Option<u64>,
}

/// What is used of a budget in its current window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetUse {
    /// Whose budget it is: `key` or `cloud`.
    pub budget: &'static str,
    /// The name of the key; `None` for a budget of all clients together.
    pub key: Option<Arc<str>>,
    /// The window.
    pub window: Window,
    /// Used tokens; those of requests under way are estimated.
    pub used: u64,
    /// The size of the budget, in tokens.
    pub limit: u64,
}

pub(super) fn observe_cache(meter: &Meter, cache: &Cache) {
    let asked = cache.clone();
    let description = (
        names::CACHE_REQUESTS,
        "{request}",
        "Requests that the response cache could serve, by result",
    );
    counter(meter, description, move |counter| {
        let counts = asked.get().map(CacheLayer::counts);
        let CacheCounts {
            hits,
            misses,
            collapsed,
            ..
        } = counts.unwrap_or_default();
        for (result, count) in [("hit", hits), ("miss", misses), ("collapsed", collapsed)] {
            counter.observe(count, &[KeyValue::new(names::RESULT, result)]);
        }
    });
    let each = |description, value: fn(&CacheLayer) -> u64| {
        let cache = cache.clone();
        gauge(meter, description, move |gauge| {
            gauge.observe(cache.get().map_or(0, value), &[]);
        });
    };
    each(
        (names::CACHE_ENTRIES, "{response}", "Cached responses"),
        |cache| cache.entries() as u64,
    );
    each(
        (names::CACHE_BYTES, "By", "Size of the cached responses"),
        CacheLayer::bytes,
    );
}

pub(super) fn observe_key_waiting(meter: &Meter, waiting: &KeyWaiting) {
    let waiting = waiting.clone();
    let description = (
        names::KEY_CONCURRENCY_WAITING,
        "{request}",
        "Requests that wait until another one of their client ends",
    );
    gauge(meter, description, move |gauge| {
        let waiting = waiting.get().map_or(0, |waiting| waiting());
        gauge.observe(u64::try_from(waiting).unwrap_or(u64::MAX), &[]);
    });
}

pub(super) fn observe_budgets(meter: &Meter, budgets: &Budgets) {
    let each = |description, value: fn(&BudgetUse) -> u64| {
        let budgets = budgets.clone();
        gauge(meter, description, move |gauge| {
            for row in budgets.get().map(|budgets| budgets()).unwrap_or_default() {
                let key = row.key.clone();
                let labels = [
                    Some(KeyValue::new(names::BUDGET, row.budget)),
                    Some(KeyValue::new(names::WINDOW, row.window.name())),
                    key.map(|key| KeyValue::new(names::IDENTITY, key)),
                ];
                let labels: Vec<_> = labels.into_iter().flatten().collect();
                gauge.observe(value(&row), &labels);
            }
        });
    };
    each(
        (
            names::TOKEN_BUDGET_USED,
            "{token}",
            "Tokens used of a budget in its current window",
        ),
        |row| row.used,
    );
    each(
        (
            names::TOKEN_BUDGET_LIMIT,
            "{token}",
            "Tokens of a budget for each window",
        ),
        |row| row.limit,
    );
}

pub(super) fn observe_reloads(meter: &Meter, last: &LastReloads) {
    let (at, pending) = (last.clone(), last.clone());
    let description = (
        names::LAST_RELOAD,
        "s",
        "When the settings were reloaded last, in seconds since 1970",
    );
    gauge(meter, description, move |gauge| {
        if let Some(last) = at.get().and_then(|last| last.get().clone()) {
            let [applied, failed] = names::RELOAD_RESULTS;
            let result = if last.is_applied() { applied } else { failed };
            let at = u64::try_from(last.at.as_second()).unwrap_or(0);
            gauge.observe(at, &[KeyValue::new(names::RESULT, result)]);
        }
    });
    let description = (
        names::SETTINGS_PENDING,
        "{setting}",
        "Changed settings that need a restart",
    );
    gauge(meter, description, move |gauge| {
        if let Some(last) = pending.get() {
            let number = last
                .get()
                .as_ref()
                .map_or(0, |last| last.need_restart.len());
            gauge.observe(number as u64, &[]);
        }
    });
}

pub(super) fn observe_state(meter: &Meter, is_written: &StateWritten) {
    let is_written = is_written.clone();
    let description = (
        names::STATE_WRITTEN,
        "",
        "1 if usage, token budgets and cordons are kept over a restart, 0 if they cannot be written",
    );
    gauge(meter, description, move |gauge| {
        if let Some(is_written) = is_written.get().and_then(|is_written| is_written()) {
            gauge.observe(is_written.into(), &[]);
        }
    });
}

pub(super) fn observe_certificate(meter: &Meter, expiry: &CertificateExpiry) {
    let expiry = expiry.clone();
    meter
        .i64_observable_gauge(names::TLS_CERTIFICATE_EXPIRY)
        .with_unit("s")
        .with_description("When the certificate in force expires, in seconds of Unix time")
        .with_callback(move |gauge| {
            if let Some(expiry) = expiry.get() {
                gauge.observe(expiry(), &[]);
            }
        })
        .build();
}

pub(super) fn observe_shared(meter: &Meter, shared: &Shared) {
    let ask = |shared: &Shared| shared.get().map(|ask| ask()).unwrap_or_default();
    let each = |description, value: fn(SharedUse) -> Option<u64>| {
        let shared = shared.clone();
        gauge(meter, description, move |gauge| {
            if let Some(value) = value(ask(&shared)) {
                gauge.observe(value, &[]);
            }
        });
    };
    each(
        (
            names::GATEWAYS,
            "{gateway}",
            "Gateways that share limits through Redis, or divide them",
        ),
        |shared| shared.gateways.map(u64::from),
    );
    each(
        (names::REDIS_UP, "", "1 if Redis is connected, else 0"),
        |shared| shared.is_connected.map(u64::from),
    );
    let shared = shared.clone();
    let description = (
        names::REDIS_SETTLEMENTS_DROPPED,
        "{request}",
        "Requests whose tokens were not counted in Redis, because too many waited for it",
    );
    counter(meter, description, move |counter| {
        if let Some(dropped) = ask(&shared).dropped_settlements {
            counter.observe(dropped, &[]);
        }
    });
}
