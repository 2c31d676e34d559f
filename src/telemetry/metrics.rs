//! The instruments, and the recording of requests.
//!
//! One set of instruments feeds the Prometheus page and OTLP. Values are recorded when a request
//! starts and ends, never per chunk.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::{Method, StatusCode};
use llamatower_layers::api_key::FailedKey;
use llamatower_layers::cache::CacheLayer;
use llamatower_layers::live::Live;
use llamatower_layers::redis::RedisCall;
use llamatower_layers::{Ending, Endpoint, ModelName, Outcome};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundUpDownCounter, Counter, Histogram, Meter, UpDownCounter};
use tokio::runtime::Handle;

use super::attributes::{METHODS, attribute, method_index, scheme};
use super::config::Semconv;
use super::fleet_view::{FleetView, View};
use super::keys::KeyCounters;
use super::model_names::ModelNames;
use super::observed::{DroppedLines, Listeners, PoolOf, Pools};
use super::redis_calls::RedisCalls;
use super::series::SeriesCache;
use super::sources::{
    BudgetUse, Budgets, Cache, CertificateExpiry, KeyWaiting, LastReloads, Shared, SharedUse,
    StateWritten,
};
use super::{names, observed, process, runtime, sources};
use crate::cloud::SentToCloud;
use crate::edge::Gauges;
use crate::live::LastReload;
use crate::ollama::fleet::LoadObserver;

/// The instruments.
pub struct Metrics {
    active: UpDownCounter<i64>,
    /// By method. Hashing the attributes at both ends of a request costs 2,400 instructions, 4 % of
    /// a small request; with bound instruments both together cost 140.
    active_of: [[OnceLock<BoundUpDownCounter<i64>>; METHODS.len()]; 2],
    series: SeriesCache,
    retries: Counter<u64>,
    refusals: Counter<u64>,
    rate_limited: Counter<u64>,
    cancelled: Counter<u64>,
    cloud_requests: Counter<u64>,
    cloud_tokens: Counter<u64>,
    model_loads: Counter<u64>,
    model_load: Histogram<f64>,
    sync_pulls: Counter<u64>,
    fallbacks: Counter<u64>,
    failed_keys: Counter<u64>,
    reloads: Counter<u64>,
    tls_reloads: Counter<u64>,
    keys: KeyCounters,
    models: Arc<ModelNames>,
    fleet: View,
    listeners: Listeners,
    pools: Pools,
    cache: Cache,
    budgets: Budgets,
    key_waiting: KeyWaiting,
    state_written: StateWritten,
    certificate_expiry: CertificateExpiry,
    last_reloads: LastReloads,
    shared: Shared,
    redis_calls: RedisCalls,
    runtime: runtime::Runtime,
    dropped_lines: DroppedLines,
}

impl Metrics {
    pub(super) fn new(meter: &Meter, semconv: Semconv) -> Self {
        let fleet = View::default();
        let models = Arc::new(ModelNames::new(fleet.clone()));
        let (listeners, pools) = (Listeners::default(), Pools::default());
        let (cache, budgets) = (Cache::default(), Budgets::default());
        let key_waiting = KeyWaiting::default();
        let (state_written, last_reloads) = (StateWritten::default(), LastReloads::default());
        let (certificate_expiry, shared) = (CertificateExpiry::default(), Shared::default());
        let runtime = runtime::Runtime::default();
        let dropped_lines = DroppedLines::default();
        observed::observe_listeners(meter, &listeners);
        observed::observe_pools(meter, &pools);
        observed::observe_backends(meter, &fleet, &models);
        observed::observe_queue(meter, &fleet, &models);
        observed::observe_build(meter);
        observed::observe_log(meter, &dropped_lines);
        sources::observe_cache(meter, &cache);
        sources::observe_budgets(meter, &budgets);
        sources::observe_key_waiting(meter, &key_waiting);
        sources::observe_state(meter, &state_written);
        sources::observe_certificate(meter, &certificate_expiry);
        sources::observe_reloads(meter, &last_reloads);
        sources::observe_shared(meter, &shared);
        runtime::observe(meter, &runtime);
        process::observe(meter);
        let count = |name: &'static str, unit: &'static str, text: &'static str| {
            let counter = meter.u64_counter(name).with_unit(unit);
            counter.with_description(text).build()
        };
        let requests = |name, text| count(name, "{request}", text);
        Self {
            active: meter
                .i64_up_down_counter(names::HTTP_SERVER_ACTIVE_REQUESTS)
                .with_unit("{request}")
                .with_description("Requests in flight, including streams")
                .build(),
            active_of: Default::default(),
            model_loads: count(names::MODEL_LOADS, "{load}", "Requests that loaded a model"),
            model_load: meter
                .f64_histogram(names::MODEL_LOAD)
                .with_unit("s")
                .with_boundaries(names::LOAD_SECONDS.to_vec())
                .with_description("Time of a load of a model, by the backend's own clock")
                .build(),
            sync_pulls: count(
                names::MODEL_SYNC_PULLS,
                "{pull}",
                "Pulls of declared models that the gateway began by itself",
            ),
            series: SeriesCache::new(meter, semconv, models.clone()),
            models,
            retries: requests(names::RETRIES, "Retried attempts"),
            refusals: requests(names::REFUSALS, "Requests that the gateway refused"),
            rate_limited: requests(names::RATE_LIMITED, "Requests refused with 429"),
            cancelled: requests(
                names::CANCELLED,
                "Requests whose client disconnected before the end",
            ),
            cloud_requests: requests(
                names::CLOUD_REQUESTS,
                "Requests for which the cloud service was asked",
            ),
            cloud_tokens: count(
                names::CLOUD_TOKENS,
                "{token}",
                "Tokens used at the cloud service",
            ),
            fallbacks: requests(
                names::FALLBACKS,
                "Requests for an alias for which the next of its models was tried",
            ),
            failed_keys: requests(names::FAILED_KEYS, "Requests whose key was refused"),
            reloads: count(names::RELOADS, "{reload}", "Reloads of the settings"),
            tls_reloads: count(
                names::TLS_RELOADS,
                "{reload}",
                "Changes of the files for TLS",
            ),
            keys: KeyCounters::new(meter),
            fleet,
            listeners,
            pools,
            cache,
            budgets,
            key_waiting,
            state_written,
            certificate_expiry,
            last_reloads,
            shared,
            redis_calls: RedisCalls::new(meter),
            runtime,
            dropped_lines,
        }
    }

    /// Initialises the counters with known labels to 0. A rate of an absent counter is not a
    /// number, and an alert on it never fires. `endpoints` are the routes for clients,
    /// and `schemes` has for each address for clients whether it speaks TLS.
    pub fn begin<'a>(&self, endpoints: impl Iterator<Item = &'a Arc<Endpoint>>, schemes: &[bool]) {
        let none = |counter: &Counter<u64>, name: &'static str, values: &[&'static str]| {
            for value in values {
                counter.add(0, &[KeyValue::new(name, *value)]);
            }
        };
        none(&self.retries, names::REASON, &names::RETRY_REASONS);
        none(
            &self.failed_keys,
            names::REASON,
            &FailedKey::ALL.map(FailedKey::name),
        );
        none(&self.reloads, names::RESULT, &names::RELOAD_RESULTS);
        self.series.begin();
        none(&self.refusals, names::ERROR_TYPE, &names::REFUSALS_BY_KIND);
        none(
            &self.rate_limited,
            names::ERROR_TYPE,
            &names::RATE_LIMITED_BY_KIND,
        );
        for (reason, result) in names::CLOUD_REASONS
            .iter()
            .flat_map(|reason| names::CLOUD_RESULTS.map(|result| (*reason, result)))
        {
            self.add_to_cloud(0, reason, result);
        }
        for endpoint in endpoints {
            let route = KeyValue::new(names::HTTP_ROUTE, endpoint.route.clone());
            self.cancelled.add(0, &[route]);
            for method in &*endpoint.methods {
                for over_tls in [false, true] {
                    if schemes.contains(&over_tls) {
                        self.change_in_flight(method, over_tls, 0);
                    }
                }
            }
        }
    }

    /// Initialises the counters of these keys to 0.
    pub fn begin_keys(&self, keys: impl Iterator<Item = Arc<str>>) {
        self.keys.begin(keys);
    }

    /// Initialises the counters of these aliases to 0.
    pub fn begin_aliases<'a>(&self, aliases: impl Iterator<Item = &'a Arc<str>>) {
        for alias in aliases {
            for reason in names::FALLBACK_REASONS {
                self.add_fallback(0, alias, reason);
            }
        }
    }

    /// Queries `fleet` at each export for the state of backends and queue, and for which models may
    /// be labels. Without a fleet, the first 200 models with responses from backends are labels.
    /// There are at most 200 in either case. Only the first call has an effect.
    pub fn observe(&self, fleet: Arc<dyn FleetView>) {
        let _ = self.fleet.set(fleet);
    }

    /// Queries the gauges of an edge at each export; `listener` says what it serves.
    pub fn observe_listener(&self, listener: &'static str, edge: Arc<Gauges>) {
        let mut listeners = (self.listeners.lock()).unwrap_or_else(PoisonError::into_inner);
        listeners.push((listener, edge));
    }

    /// Queries the connections to a backend at each export, until `status` returns `None`.
    pub fn observe_pool(&self, backend: Arc<str>, status: PoolOf) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push((backend, status));
    }

    /// Queries the response cache at each export. Only the first call has an effect.
    pub fn observe_cache(&self, cache: CacheLayer) {
        let _ = self.cache.set(cache);
    }

    /// Queries the token budgets at each export. Only the first call has an effect.
    pub fn observe_budgets(&self, budgets: impl Fn() -> Vec<BudgetUse> + Send + Sync + 'static) {
        let _ = self.budgets.set(Box::new(budgets));
    }

    /// Queries at each export how many requests wait for their client's turn. Only the first call has an
    /// effect.
    pub fn observe_key_waiting(&self, waiting: impl Fn() -> usize + Send + Sync + 'static) {
        let _ = self.key_waiting.set(Box::new(waiting));
    }

    /// Queries at each export whether what a restart needs is written; `None` if it need not be. Only the
    /// first call has an effect.
    pub fn observe_state(&self, is_written: impl Fn() -> Option<bool> + Send + Sync + 'static) {
        let _ = self.state_written.set(Box::new(is_written));
    }

    /// Queries at each export when the certificate expires, in seconds of Unix time. Only the first call
    /// has an effect.
    pub fn observe_certificate(&self, expiry: impl Fn() -> i64 + Send + Sync + 'static) {
        let _ = self.certificate_expiry.set(Box::new(expiry));
        for result in names::RELOAD_RESULTS {
            self.tls_reloads
                .add(0, &[KeyValue::new(names::RESULT, result)]);
        }
    }

    /// Queries the last reload of the settings at each export. Only the first call has an effect.
    pub fn observe_reloads(&self, last: Live<Option<LastReload>>) {
        let _ = self.last_reloads.set(last);
    }

    /// Queries at each export what gateways share; `None` for a value that does not apply. Only the first
    /// call has an effect.
    pub fn observe_shared(&self, shared: impl Fn() -> SharedUse + Send + Sync + 'static) {
        let _ = self.shared.set(Box::new(shared));
    }

    /// Records a call of Redis.
    pub fn called_redis(&self, call: &RedisCall) {
        self.redis_calls.record(call);
    }

    /// Queries the number of dropped log lines at each export. Only the first call has an effect.
    pub fn observe_log(&self, dropped: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.dropped_lines.set(Box::new(dropped));
    }

    /// Queries the runtime of the caller at each export. Only the first call has an effect.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn observe_runtime(&self) {
        let _ = self.runtime.set(Handle::current().metrics());
    }

    /// Counts a retry; `reason` has a fixed spelling
    /// ([`Failure::kind`](llamatower_layers::Failure::kind)).
    pub fn retried(&self, reason: &'static str) {
        let reason = KeyValue::new(names::REASON, reason);
        self.retries.add(1, &[reason]);
    }

    /// Counts a request for which the cloud service was asked; both texts have a fixed spelling.
    pub fn asked_cloud(&self, reason: &'static str, result: &'static str) {
        self.add_to_cloud(1, reason, result);
    }

    fn add_to_cloud(&self, number: u64, reason: &'static str, result: &'static str) {
        let reason = KeyValue::new(names::REASON, reason);
        let result = KeyValue::new(names::RESULT, result);
        self.cloud_requests.add(number, &[reason, result]);
    }

    /// Counts that the next model of an alias was tried; `reason` has a fixed spelling.
    pub fn fell_back(&self, alias: &Arc<str>, reason: &'static str) {
        self.add_fallback(1, alias, reason);
    }

    fn add_fallback(&self, number: u64, alias: &Arc<str>, reason: &'static str) {
        let alias = KeyValue::new(names::ALIAS, alias.clone());
        let reason = KeyValue::new(names::REASON, reason);
        self.fallbacks.add(number, &[alias, reason]);
    }

    /// Counts a request whose key was refused.
    pub fn key_failed(&self, failed: FailedKey) {
        let reason = KeyValue::new(names::REASON, failed.name());
        self.failed_keys.add(1, &[reason]);
    }

    /// Counts a reload of the settings.
    pub fn reloaded(&self, has_succeeded: bool) {
        let [applied, failed] = names::RELOAD_RESULTS;
        let result = if has_succeeded { applied } else { failed };
        self.reloads.add(1, &[KeyValue::new(names::RESULT, result)]);
    }

    /// Counts a change of the files for TLS.
    pub fn tls_reloaded(&self, has_succeeded: bool) {
        let [applied, failed] = names::RELOAD_RESULTS;
        let result = if has_succeeded { applied } else { failed };
        self.tls_reloads
            .add(1, &[KeyValue::new(names::RESULT, result)]);
    }

    /// Counts a pull that the gateway began by itself; `result` has a fixed spelling.
    pub fn pulled_by_sync(&self, backend: &Arc<str>, result: &'static str) {
        let backend = KeyValue::new(names::BACKEND, backend.clone());
        let result = KeyValue::new(names::RESULT, result);
        self.sync_pulls.add(1, &[backend, result]);
    }

    /// Counts the tokens of a request that the cloud service has answered.
    fn count_cloud_tokens(&self, outcome: &Outcome) {
        let sent = outcome.extensions.get::<SentToCloud>();
        let Some((SentToCloud(reason), usage)) = sent.zip(outcome.usage) else {
            return;
        };
        for (kind, tokens) in [
            ("input", usage.prompt_tokens),
            ("output", usage.output_tokens),
        ] {
            let reason = KeyValue::new(names::REASON, reason.name());
            let kind = KeyValue::new(names::GEN_AI_TOKEN_TYPE, kind);
            self.cloud_tokens.add(tokens, &[reason, kind]);
        }
    }

    pub(super) fn started(&self, outcome: &Outcome) {
        self.change_in_flight(&outcome.method, outcome.over_tls, 1);
    }

    pub(super) fn finished(&self, outcome: &Outcome) {
        self.change_in_flight(&outcome.method, outcome.over_tls, -1);
        self.series.record(outcome);
        self.keys.record(outcome);
        self.count(outcome);
        self.count_cloud_tokens(outcome);
    }

    /// Counts a request or a connection that the edge refused; `reason` has a fixed spelling.
    pub(super) fn refused(&self, reason: &'static str) {
        let reason = KeyValue::new(names::ERROR_TYPE, reason);
        self.refusals.add(1, &[reason]);
    }

    fn change_in_flight(&self, method: &Method, over_tls: bool, change: i64) {
        let index = method_index(method);
        let bind = || {
            let method = KeyValue::new(names::HTTP_REQUEST_METHOD, METHODS[index]);
            let scheme = KeyValue::new(names::URL_SCHEME, scheme(over_tls));
            self.active.bind(&[method, scheme])
        };
        self.active_of[usize::from(over_tls)][index]
            .get_or_init(bind)
            .add(change);
    }

    fn labels_of_load(&self, backend: &Arc<str>, model: &ModelName) -> [KeyValue; 2] {
        let model = self.models.label(&model.to_string(), true);
        [
            KeyValue::new(names::GEN_AI_REQUEST_MODEL, model),
            KeyValue::new(names::BACKEND, backend.clone()),
        ]
    }

    fn count(&self, outcome: &Outcome) {
        if outcome.ending == Ending::Cancelled {
            let route = attribute(names::HTTP_ROUTE, outcome.route().cloned());
            self.cancelled.add(1, route.as_slice());
        }
        if outcome.attempts > 0 {
            return;
        }
        if let Some(kind) = outcome.error {
            let kind = [KeyValue::new(names::ERROR_TYPE, kind)];
            self.refusals.add(1, &kind);
            if outcome.status == Some(StatusCode::TOO_MANY_REQUESTS) {
                self.rate_limited.add(1, &kind);
            }
        }
    }
}

/// The fleet has a weak reference, because the metrics have one to the fleet.
impl LoadObserver for Weak<Metrics> {
    fn loaded(&self, backend: &Arc<str>, model: &ModelName) {
        if let Some(metrics) = self.upgrade() {
            let labels = metrics.labels_of_load(backend, model);
            metrics.model_loads.add(1, &labels);
        }
    }

    fn load_took(&self, backend: &Arc<str>, model: &ModelName, time: Duration) {
        if let Some(metrics) = self.upgrade() {
            let labels = metrics.labels_of_load(backend, model);
            metrics.model_load.record(time.as_secs_f64(), &labels);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
