//! The series of requests. Requests with equal attributes share them, so OpenTelemetry hashes the
//! attributes only once. All records of a streamed response cost 2,900 instructions this way; for one
//! instrument, creating and hashing the attributes for each record costs eight times as much.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashMap;
use http::StatusCode;
use llamatower_layers::{Operation, Outcome};
use opentelemetry::StringValue;
use opentelemetry::metrics::{Histogram, Meter};

use super::attributes::{Provider, attribute, error_type, method_name, scheme};
use super::config::Semconv;
use super::gen_ai::{self, GenAi, Labels, seconds};
use super::lazily::Lazily;
use super::model_names::ModelNames;
use super::names;

/// Limit of cached series, far above the usual number. Beyond it, series are not cached.
const MOST_SERIES: usize = 4096;

/// Caches the series of requests.
pub(super) struct SeriesCache {
    http_duration: Histogram<f64>,
    pub(super) gen_ai: gen_ai::Instruments,
    models: Arc<ModelNames>,
    known: RwLock<HashMap<Kind, Arc<Series>>>,
}

/// The attributes by which requests share a series.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    method: &'static str,
    over_tls: bool,
    route: Option<Arc<str>>,
    status: Option<StatusCode>,
    error: Option<StringValue>,
    operation: Option<Operation>,
    model: Option<StringValue>,
    backend: Option<Arc<str>>,
    provider: &'static str,
}

struct Series {
    http: Lazily<Histogram<f64>>,
    gen_ai: Option<GenAi>,
}

impl SeriesCache {
    pub(super) fn new(meter: &Meter, semconv: Semconv, models: Arc<ModelNames>) -> Self {
        Self {
            http_duration: seconds(
                meter,
                names::HTTP_SERVER_REQUEST_DURATION,
                &names::HTTP_SECONDS,
                "From a request's head to the end of its response",
            ),
            gen_ai: gen_ai::Instruments::new(meter, semconv),
            models,
            known: RwLock::default(),
        }
    }

    /// Begins the wait in the queue with a series without a value, so that it can be queried before
    /// a request has waited.
    pub(super) fn begin(&self) {
        let chat = self.series(Kind {
            method: "POST",
            over_tls: false,
            route: None,
            status: None,
            error: None,
            operation: Some(Operation::Chat),
            model: Some(names::OTHER.into()),
            backend: None,
            provider: names::OLLAMA,
        });
        if let Some(gen_ai) = &chat.gen_ai {
            gen_ai.begin();
        }
    }

    /// Records a finished request.
    pub(super) fn record(&self, outcome: &Outcome) {
        // Clients choose the names of requests; the fleet knows the models of an alias.
        let model = outcome.served_model.as_ref().or(outcome.model.as_ref());
        let was_served = outcome.status == Some(StatusCode::OK) && outcome.backend.is_some();
        let series = self.series(Kind {
            method: method_name(&outcome.method),
            over_tls: outcome.over_tls,
            route: outcome.route().cloned(),
            status: outcome.status,
            error: error_type(outcome),
            operation: outcome.operation().filter(|o| o.is_inference()),
            model: model.map(|model| self.models.label(model, was_served)),
            backend: outcome.backend.clone(),
            provider: Provider::of(outcome),
        });
        let seconds = outcome.duration.unwrap_or_default().as_secs_f64();
        series.http.record(seconds);
        if let Some(gen_ai) = &series.gen_ai {
            gen_ai.record(outcome, was_served);
        }
    }

    fn series(&self, kind: Kind) -> Arc<Series> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&kind) {
            return series.clone();
        }
        drop(known);
        // Before the lock, because it takes a while.
        let created = Arc::new(self.create(&kind));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_SERIES {
            known.clear();
        }
        match known.entry(kind) {
            Entry::Occupied(place) => place.get().clone(),
            Entry::Vacant(place) => place.insert(created).clone(),
        }
    }

    fn create(&self, kind: &Kind) -> Series {
        let status = kind.status.map(|status| i64::from(status.as_u16()));
        let http = [
            attribute(names::HTTP_REQUEST_METHOD, Some(kind.method)),
            attribute(names::URL_SCHEME, Some(scheme(kind.over_tls))),
            attribute(names::HTTP_ROUTE, kind.route.clone()),
            attribute(names::HTTP_RESPONSE_STATUS_CODE, status),
            attribute(names::ERROR_TYPE, kind.error.clone()),
        ];
        let failed = kind.status.filter(StatusCode::is_client_error);
        let client_error = || failed.map(|status| status.as_str().to_owned().into());
        let labels = Labels {
            provider: kind.provider,
            model: kind.model.clone(),
            backend: kind.backend.clone(),
            error: kind.error.clone(),
            client_error: kind.error.clone().or_else(client_error),
        };
        let gen_ai = |operation| self.gen_ai.series(operation, &labels);
        Series {
            http: Lazily::new(&self.http_duration, http.into_iter().flatten()),
            gen_ai: kind.operation.map(gen_ai),
        }
    }
}
