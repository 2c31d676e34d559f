//! How the layers of one backend are configured.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::request::Parts;
use http_body::Body;
use llamatower_layers::clocks::{LimitNames, StreamClocksLayer, StreamTimeouts};
use llamatower_layers::{BoxError, Failure, Operation, RouteMatch, Side};

use crate::ollama::down_clock::{LIMIT_OF_LOOKUP, PROBES_OF_LOOKUP, is_lookup};
use crate::ollama::fleet::{Backend, MayLoad};
use crate::ollama::hygiene::clean_request;
use crate::ollama::upstream::{Access, ConnectFailed, PoolLimits, Upstream};
use crate::settings::{Settings, Timeouts};
use crate::telemetry::{AttemptTelemetry, Upstream as UpstreamName, names};

/// The settings of the stream clocks, for the texts of errors.
const USUAL_LIMITS: LimitNames = LimitNames {
    first_byte: "LLAMATOWER_FIRST_BYTE_TIMEOUT",
    idle: "LLAMATOWER_IDLE_TIMEOUT",
    total: "LLAMATOWER_TOTAL_TIMEOUT",
};

/// The same for requests that manage models.
const MANAGEMENT_LIMITS: LimitNames = LimitNames {
    first_byte: "LLAMATOWER_MANAGEMENT_TIMEOUT",
    idle: "LLAMATOWER_MANAGEMENT_TIMEOUT",
    ..USUAL_LIMITS
};

/// How spans name the backend.
pub(super) fn upstream_name(backend: &Backend) -> UpstreamName {
    let address = backend.address();
    UpstreamName {
        name: backend.name().clone(),
        provider: match backend.openai() {
            Some(_) => names::OPENAI_COMPATIBLE,
            None => names::OLLAMA,
        },
        base: address.url().into(),
        address: address.host().into(),
        port: address.port(),
    }
}

/// The connections to the backend. Each probe also closes the idle ones that cannot be used again.
pub(super) fn connections<B>(
    settings: &Settings,
    access: &Access,
    backend: &Arc<Backend>,
    telemetry: &AttemptTelemetry,
) -> Upstream<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let limits = PoolLimits {
        max_idle: settings.backends.pool_idle.get(),
        idle_timeout: settings.backends.pool_idle_timeout,
    };
    let (address, connect_timeout) = (backend.address().clone(), settings.timeouts.connect);
    let upstream = Upstream::with_access(address, connect_timeout, limits, access);
    if let Some(pool) = upstream.watch_pool() {
        telemetry.observe_pool(backend.name().clone(), pool);
    }
    let pool = upstream.clone();
    backend.after_probe(move || pool.prune());
    upstream
}

/// The time-outs of a response: those of management for requests that manage models.
pub(super) fn clocks(timeouts: &Timeouts) -> StreamClocksLayer {
    StreamClocksLayer::new()
        .with_first_byte(timeouts.first_byte)
        .with_idle(timeouts.idle)
        .with_total(timeouts.total)
        .with_quiet(manages_models, timeouts.management)
        .with_limit_names(&USUAL_LIMITS, &MANAGEMENT_LIMITS)
}

fn manages_models(request: &Parts) -> bool {
    RouteMatch::of(&request.extensions)
        .and_then(RouteMatch::operation)
        .is_some_and(Operation::is_management)
}

/// Cleans the head of a request, and sets its own first-byte time-out if it has one.
pub(super) fn prepare<B>(
    settings: &Settings,
    backend: &Backend,
) -> impl Fn(Request<B>) -> Request<B> + Clone + use<B> {
    let load_clock = load_clock(settings.timeouts.load);
    let lookup_clock = lookup_clock(settings, backend);
    move |mut request| {
        let own = request.extensions().get::<MayLoad>().map(|_| load_clock);
        let operation = RouteMatch::of(request.extensions()).and_then(RouteMatch::operation);
        let own = lookup_clock
            .filter(|_| operation.is_some_and(is_lookup))
            .or(own);
        if let Some(own) = own {
            request.extensions_mut().insert(own);
        }
        clean_request(&mut request);
        request
    }
}

/// The time-outs of a request that may have to wait for a load.
fn load_clock(limit: Option<Duration>) -> StreamTimeouts {
    StreamTimeouts::new()
        .with_first_byte(limit)
        .with_first_byte_name("LLAMATOWER_LOAD_TIMEOUT")
}

/// The time-outs of a request that asks what an Ollama knows of a model, unless that of all requests
/// is shorter. Other servers may answer nothing while they work.
fn lookup_clock(settings: &Settings, backend: &Backend) -> Option<StreamTimeouts> {
    let limit = settings
        .backends
        .probe_timeout
        .saturating_mul(PROBES_OF_LOOKUP);
    let is_shorter = settings
        .timeouts
        .first_byte
        .is_none_or(|usual| limit < usual);
    let clock = StreamTimeouts::new()
        .with_first_byte(limit)
        .with_first_byte_name(LIMIT_OF_LOOKUP);
    (is_shorter && backend.openai().is_none()).then_some(clock)
}

/// Whether a failure counts for the circuit breaker. A refused connection does not: it costs
/// nothing, its error is clear, and the backend counts as down until a probe succeeds.
pub(super) fn counts_for_breaker(failure: &Failure) -> bool {
    failure.side() == Side::Upstream && failure.caused_by::<ConnectFailed>().is_none()
}
