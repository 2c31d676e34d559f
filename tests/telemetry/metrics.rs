//! The metrics that a scraper and a collector receive.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use http_body_util::BodyExt;
use llamatower::ollama::fleet::{
    BackendStatus, Decision, Drift, Installed, MemoryChange, MemoryChangeFailed, ModelStatus,
    QueueStatus, Residency, ServerRules, SlotSource, SlotStatus, Waiting,
};
use llamatower::telemetry::{FleetView, names};
use llamatower_layers::breaker::State;
use llamatower_layers::{EndpointTable, ModelName, Outcome};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::collector::*;
use crate::gateway::*;

#[tokio::test]
async fn the_collector_gets_the_metrics_of_a_request() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    gateway.chat().await;
    gateway.stop().await;

    let metrics = collector.metrics();
    let point = |name: &str| {
        let metric = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(metric.unit, "s");
        let Some(Data::Histogram(histogram)) = &metric.data else {
            panic!("{name} is not a histogram");
        };
        assert_eq!(histogram.data_points[0].count, 1);
        histogram.data_points[0].clone()
    };
    let http = point("http.server.request.duration");
    let of_http = [
        ("http.route", "/api/chat"),
        ("http.response.status_code", "200"),
    ];
    expect(&http.attributes, &of_http);
    assert_eq!(http.explicit_bounds, names::HTTP_SECONDS);
    let first = point("gen_ai.server.time_to_first_token");
    assert_eq!(first.explicit_bounds, names::FIRST_TOKEN_SECONDS);
    let whole = point("gen_ai.server.request.duration");
    assert_eq!(whole.explicit_bounds, names::GEN_AI_SECONDS);
    let of_whole = [
        ("gen_ai.request.model", "llama3.2"),
        ("llamatower.backend", "gpu-1"),
    ];
    expect(&whole.attributes, &of_whole);
}

#[tokio::test]
async fn the_provider_of_a_series_is_that_of_the_attempt() {
    let gateway = Gateway::silent();
    for provider in [names::OLLAMA, names::OPENAI_COMPATIBLE, names::GROQ] {
        let answer = gateway.send_to(provider, chat(), 1, |_| two_lines());
        answer.await.unwrap().collect().await.unwrap();
        let page = gateway.telemetry.metrics_page();
        let label = format!("gen_ai_provider_name=\"{provider}\"");
        let name = "gen_ai_server_request_duration_seconds_count";
        assert_eq!(sample(&page, name, &[&label]), Some(1.0), "{page}");
    }
}

/// The value of the first line that starts with `name` and contains all `labels`.
pub(crate) fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_meant = |line: &&str| {
        let named = line.strip_prefix(name);
        named.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let line = page.lines().find(is_meant)?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// A model in memory, with so many slots.
fn in_memory(name: &str, limit: u32) -> ModelStatus {
    ModelStatus {
        model: ModelName::parse(name).unwrap(),
        residency: Residency::Resident { context: None },
        in_flight: 0,
        slots: SlotStatus {
            limit: Some(limit),
            known: Some(1),
            source: SlotSource::Searching,
        },
        prompt_rate: None,
        output_rate: None,
        load_seconds: None,
        rests_for: None,
    }
}

/// Two backends, one of them down, and requests that wait for three models, one of them known.
#[derive(Default)]
pub(crate) struct TwoBackends {
    /// The number of models on their disks.
    installed: usize,
}

fn installed(number: usize) -> Arc<[Installed]> {
    let model = |number| Installed {
        name: ModelName::parse(&format!("model-{number}")).unwrap(),
        digest: "".into(),
        size: 0,
        family: "".into(),
        capabilities: Arc::from([]),
    };
    (0..number).map(model).collect()
}

impl FleetView for TwoBackends {
    fn status(&self) -> Vec<BackendStatus> {
        let row = |name: &str, is_up, in_flight| BackendStatus {
            name: name.into(),
            is_up,
            version: None,
            installed: 0,
            models_on_disk: installed(self.installed),
            is_ollama: true,
            is_cordoned: false,
            resident: None,
            in_flight,
            reported: None,
            in_flight_of_others: 0,
            rules: ServerRules::default(),
            slots: 4.try_into().ok().filter(|_| is_up),
            models: vec![
                in_memory("llama3.2", 2),
                in_memory("made-up", 8),
                in_memory("made-up-too", 3),
            ],
            preloads: std::sync::Arc::from([]),
            memory: None,
            breaker: match is_up {
                true => State::Closed,
                false => State::Open,
            },
            avoided: Vec::new(),
        };
        vec![row("gpu-1", true, 3), row("gpu-2", false, 0)]
    }

    fn waiting(&self, _: usize) -> Vec<Waiting> {
        Vec::new()
    }
    fn cancel_waiting(&self, _: u64) -> bool {
        false
    }
    fn change_memory(
        self: Arc<Self>,
        _: String,
        _: ModelName,
        _: MemoryChange,
    ) -> BoxFuture<'static, Result<Duration, MemoryChangeFailed>> {
        unreachable!("telemetry changes nothing")
    }
    fn drifts(&self) -> Vec<Drift> {
        Vec::new()
    }

    fn decisions(&self) -> Vec<Decision> {
        Vec::new()
    }

    fn set_cordoned(&self, _: &str, _: bool) -> bool {
        false
    }

    fn queue_status(&self) -> Vec<QueueStatus> {
        let row = |model: &str| QueueStatus {
            model: model.into(),
            waiting: 5,
            in_flight: 4,
            oldest: None,
            predicted_wait: None,
        };
        vec![row("llama3.2"), row("made-up"), row("made-up-too")]
    }

    fn knows(&self, model: &str) -> bool {
        model == "llama3.2" || model == "llama3.2:latest" || model.starts_with("model-")
    }
}

#[tokio::test]
async fn the_metrics_page_has_every_metric() {
    let gateway = Gateway::silent();
    gateway
        .telemetry
        .metrics()
        .observe(Arc::new(TwoBackends::default()));
    gateway.telemetry.metrics().retried("backend_died");
    gateway.chat().await;
    drop(gateway.send(1, |_| two_lines()).await.unwrap());
    let open = gateway.send(1, |_| two_lines()).await.unwrap();

    let page = gateway.telemetry.metrics_page();
    let route = "http_route=\"/api/chat\"";
    let model = "gen_ai_request_model=\"llama3.2\"";
    let tagged_model = "gen_ai_request_model=\"llama3.2:latest\"";
    let reason = "reason=\"backend_died\"";
    let first = "llamatower_backend=\"gpu-1\"";
    let second = "llamatower_backend=\"gpu-2\"";
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    for (name, label, value) in [
        ("http_server_request_duration_seconds_count", route, 2.0),
        ("http_server_active_requests", "", 1.0),
        ("gen_ai_server_request_duration_seconds_count", model, 2.0),
        (
            "gen_ai_server_time_to_first_token_seconds_count",
            model,
            2.0,
        ),
        ("llamatower_cancelled_total", route, 1.0),
        ("llamatower_retries_total", reason, 1.0),
        ("llamatower_backend_up", first, 1.0),
        ("llamatower_backend_up", second, 0.0),
        ("llamatower_backend_in_flight", first, 3.0),
        ("llamatower_backend_slots", first, 4.0),
        ("llamatower_backend_slots", tagged_model, 2.0),
        ("llamatower_backend_slots", "\"other\"", 8.0),
        ("llamatower_breaker_state", first, 0.0),
        ("llamatower_breaker_state", second, 2.0),
        ("llamatower_queue_depth", model, 5.0),
        ("llamatower_queue_depth", "\"other\"", 10.0),
        ("llamatower_build_info", &version, 1.0),
    ] {
        assert_eq!(sample(&page, name, &[label]), Some(value), "{name}\n{page}");
    }
    for name in [
        "process_start_time_seconds",
        "process_cpu_time_seconds_total",
        "process_memory_usage_bytes",
        "process_open_file_descriptor_count",
    ] {
        assert!(sample(&page, name, &[]).is_some(), "{name}\n{page}");
    }

    open.collect().await.unwrap();
    let page = gateway.telemetry.metrics_page();
    assert_eq!(sample(&page, "http_server_active_requests", &[]), Some(0.0));
}

#[tokio::test]
async fn a_refusal_is_counted_by_its_kind() {
    let gateway = Gateway::silent();
    let status = StatusCode::TOO_MANY_REQUESTS;
    gateway
        .refuse(status, |outcome| outcome.error = Some("rate_limited"))
        .await;
    let page = gateway.telemetry.metrics_page();
    let kind = "error_type=\"rate_limited\"";
    for name in ["llamatower_refusals_total", "llamatower_rate_limited_total"] {
        assert_eq!(sample(&page, name, &[kind]), Some(1.0), "{name}\n{page}");
    }
}

/// Sends a request for this model, and the backend answers with this status.
async fn ask_for(gateway: &Gateway, model: &str, status: StatusCode) {
    let model: Arc<str> = model.into();
    let change = move |outcome: &mut Outcome| {
        outcome.model = Some(model.clone());
        outcome.backend = Some("gpu-1".into());
    };
    gateway.refuse(status, change).await;
}

fn requests_for(gateway: &Gateway, model: &str) -> Option<f64> {
    let page = gateway.telemetry.metrics_page();
    let label = format!("gen_ai_request_model=\"{model}\"");
    sample(
        &page,
        "gen_ai_server_request_duration_seconds_count",
        &[&label],
    )
}

#[tokio::test]
async fn a_model_without_an_answer_has_no_label() {
    let gateway = Gateway::silent();
    ask_for(&gateway, "made-up", StatusCode::NOT_FOUND).await;
    assert_eq!(requests_for(&gateway, "made-up"), None);
    assert_eq!(requests_for(&gateway, "other"), Some(1.0));
    ask_for(&gateway, "llama3.2", StatusCode::OK).await;
    assert_eq!(requests_for(&gateway, "llama3.2"), Some(1.0));
}

#[tokio::test]
async fn a_model_that_the_fleet_does_not_have_has_no_label() {
    let gateway = Gateway::silent();
    gateway
        .telemetry
        .metrics()
        .observe(Arc::new(TwoBackends::default()));
    ask_for(&gateway, "LLAMA3.2", StatusCode::OK).await;
    assert_eq!(requests_for(&gateway, "LLAMA3.2"), None);
    assert_eq!(requests_for(&gateway, "other"), Some(1.0));
}

#[tokio::test]
async fn the_number_of_model_labels_is_limited() {
    let gateway = Gateway::silent();
    for n in 0..250 {
        ask_for(&gateway, &format!("model-{n}"), StatusCode::OK).await;
    }
    assert_eq!(requests_for(&gateway, "model-199"), Some(1.0));
    assert_eq!(requests_for(&gateway, "model-200"), None);
    assert_eq!(requests_for(&gateway, "other"), Some(50.0));
}

/// The names of failures in the sources: what stands in quotes in each `fn kind` of an `impl Fail`.
fn kinds_of_failures(folder: &Path, kinds: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            kinds_of_failures(&path, kinds);
            continue;
        }
        if path.ends_with("tests.rs") || path.parent().unwrap().ends_with("tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut rest = text.as_str();
        while let Some((_, after)) = rest.split_once("fn kind(&self) -> &'static str {\n") {
            let body = after.lines().take_while(|line| line.trim() != "}");
            for line in body {
                kinds.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
            }
            rest = after;
        }
    }
}

/// The reasons of refusals by the edge: a line of its own after a status, or in `fn reason`.
fn reasons_of_the_edge(file: &Path, kinds: &mut BTreeSet<String>) {
    let text = std::fs::read_to_string(file).unwrap();
    let before = kinds.len();
    for (line, next) in text.lines().zip(text.lines().skip(1)) {
        let (line, next) = (line.trim(), next.trim());
        let is_reason = line.starts_with("StatusCode::") && next.starts_with('"');
        let names = [
            (is_reason, next),
            (line.starts_with("Self::") && line.contains("=> \""), line),
        ];
        for (_, text) in names.iter().filter(|(is_one, _)| *is_one) {
            let name = text.split('"').nth(1).unwrap();
            if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                kinds.insert(name.to_owned());
            }
        }
    }
    assert!(kinds.len() >= before + 8, "the file has another form now");
}

#[test]
fn each_kind_of_failure_is_counted_from_the_start_or_comes_of_a_backend() {
    let mut kinds = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    kinds_of_failures(&root.join("src"), &mut kinds);
    kinds_of_failures(&root.join("layers/src"), &mut kinds);
    // They end requests that a backend was asked for, or cannot happen in the gateway.
    let others = [
        "answer_broken",
        "answer_unfinished",
        "circuit_open",
        "cloud_error",
        "invalid_request",
        "limits_unavailable",
        "no_limit_key",
        "refused_late_4xx",
        "refused_late_5xx",
        "servers_failed",
        "servers_lost",
        "uri_too_long",
        "ambiguous_path",
        "tunnel_refused",
        // Of `llamatower connect`, which has no metrics.
        "gateway_unreachable",
    ];
    let known = names::REFUSALS_BY_KIND.iter();
    reasons_of_the_edge(&root.join("src/edge/refusal.rs"), &mut kinds);
    let known = known.chain(&names::RETRY_REASONS).chain(&others);
    for kind in known {
        kinds.remove(*kind);
    }
    assert!(
        kinds.is_empty(),
        "in no list of telemetry::names: {kinds:?}"
    );
}

#[test]
fn counters_are_0_before_anything_has_happened() {
    let gateway = Gateway::silent();
    let table = EndpointTable::ollama();
    gateway
        .telemetry
        .metrics()
        .begin(table.endpoints(), &[false]);
    let page = gateway.telemetry.metrics_page();
    for (name, label) in [
        ("llamatower_retries_total", "reason=\"connect_failed\""),
        ("llamatower_retries_total", "reason=\"status_503\""),
        ("llamatower_refusals_total", "error_type=\"wrong_key\""),
        ("llamatower_refusals_total", "error_type=\"queue_full\""),
        (
            "llamatower_rate_limited_total",
            "error_type=\"rate_limited\"",
        ),
        (
            "llamatower_rate_limited_total",
            "error_type=\"tokens_exhausted\"",
        ),
        ("llamatower_cancelled_total", "http_route=\"/api/chat\""),
        ("llamatower_cancelled_total", "http_route=\"/v1/models/{}\""),
        (
            "http_server_active_requests",
            "http_request_method=\"POST\"",
        ),
    ] {
        assert_eq!(sample(&page, name, &[label]), Some(0.0), "{name}\n{page}");
    }
}

#[test]
fn the_queue_has_a_row_for_each_installed_model_unless_these_would_take_the_labels_of_used_ones() {
    for (installed, rows) in [(0, 2), (3, 5), (201, 2)] {
        let gateway = Gateway::silent();
        let fleet = Arc::new(TwoBackends { installed });
        gateway.telemetry.metrics().observe(fleet);
        let page = gateway.telemetry.metrics_page();
        for name in [
            "llamatower_queue_depth{",
            "llamatower_queue_oldest_seconds{",
        ] {
            let found = page.lines().filter(|line| line.starts_with(name)).count();
            assert_eq!(found, rows, "{installed}: {name}");
        }
    }
}
