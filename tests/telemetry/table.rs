//! All metrics, against the table in `metrics.tsv`: what dashboards and alerts are written for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use llamatower::live::LastReload;
use llamatower::ollama::fleet::LoadObserver;
use llamatower::ollama::upstream::PoolStatus;
use llamatower::reload::Cause;
use llamatower::telemetry::{BudgetUse, Semconv, SharedUse, TelemetryConfig};
use llamatower_layers::api_key::FailedKey;
use llamatower_layers::live::Live;
use llamatower_layers::redis::{RedisCall, RedisCallResult};
use llamatower_layers::token_limit::Window;
use llamatower_layers::usage::Usage;
use llamatower_layers::{ModelName, Outcome};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use tokio::time::Instant;

use crate::collector::Collector;
use crate::gateway::{Gateway, chat};
use crate::metrics::TwoBackends;

const TABLE: &str = include_str!("metrics.tsv");

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    kind: String,
    unit: String,
    on_page: String,
    buckets: String,
}

fn rows() -> BTreeMap<String, Row> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).skip(1);
    let row = |line: &str| {
        let cells: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let [name, kind, unit, on_page, _, buckets] = <[String; 6]>::try_from(cells).unwrap();
        let row = Row {
            kind,
            unit,
            on_page,
            buckets,
        };
        (name, row)
    };
    lines.map(row).collect()
}

/// The usage that a backend reports in one of OpenAI's dialects.
fn usage() -> Option<Usage> {
    Usage::find_last(
        br#""usage":{"prompt_tokens":30,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":10},"completion_tokens_details":{"reasoning_tokens":5}}"#,
    )
}

/// The usage that an Ollama reports.
fn usage_with_timings() -> Option<Usage> {
    Usage::find_last(br#"{"prompt_eval_count":30,"eval_count":20,"eval_duration":2000000000}"#)
}

/// A stream that a backend has answered after a wait.
pub(crate) fn served(outcome: &mut Outcome) {
    let now = Instant::now();
    outcome.attempted(now, now);
    outcome.attempts = 1;
    outcome.backend = Some("gpu-1".into());
    outcome.model = Some("llama3.2".into());
    outcome.stream = true;
    outcome.queued = Some(Duration::ZERO);
    outcome.usage = usage();
}

/// Something of everything that is measured.
async fn make_everything_happen(gateway: &Gateway) {
    let metrics = gateway.telemetry.metrics();
    metrics.begin(
        llamatower_layers::EndpointTable::ollama().endpoints(),
        &[false],
    );
    metrics.begin_aliases([Arc::from("fast")].iter());
    metrics.observe(Arc::new(TwoBackends::default()));
    metrics.observe_listener("clients", Arc::default());
    metrics.observe_runtime();
    metrics.observe_log(|| 0);
    metrics.observe_state(|| Some(true));
    metrics.observe_certificate(|| 1);
    let reload = LastReload::new(
        jiff::Timestamp::now(),
        Cause::Signal,
        &Ok(Default::default()),
    );
    metrics.observe_reloads(Live::new(Some(reload)));
    metrics.key_failed(FailedKey::Unknown);
    metrics.observe_shared(|| SharedUse {
        gateways: Some(2),
        is_connected: Some(true),
        dropped_settlements: Some(0),
    });
    metrics.called_redis(&RedisCall::new(
        "take",
        RedisCallResult::Answered,
        Duration::from_millis(1),
    ));
    let status = PoolStatus {
        idle: 1,
        closed_by_backend: 0,
    };
    metrics.observe_pool("gpu-1".into(), Box::new(move || Some(status)));
    metrics.observe_budgets(|| {
        vec![BudgetUse {
            budget: "key",
            key: Some("ada".into()),
            window: Window::Day,
            used: 1,
            limit: 2,
        }]
    });
    let (gpu, model) = (Arc::from("gpu-1"), ModelName::parse("llama3.2").unwrap());
    metrics.pulled_by_sync(&gpu, "pulled");
    let loads = Arc::downgrade(metrics);
    loads.loaded(&gpu, &model);
    loads.load_took(&gpu, &model, Duration::from_secs(1));
    gateway.refuse(StatusCode::OK, served).await;
    gateway
        .refuse(StatusCode::OK, |outcome| {
            served(outcome);
            outcome.usage = usage_with_timings();
            outcome.extensions.insert(llamatower::cloud::SentToCloud(
                llamatower::cloud::Reason::Busy,
            ));
        })
        .await;
    let embed = Request::post("/api/embed")
        .body(chat().into_body())
        .unwrap();
    gateway.answer(embed, StatusCode::OK, served).await;
}

/// A metric that a collector has received, as a row.
fn received(metric: &Metric) -> Row {
    let (kind, buckets) = match metric.data.as_ref().unwrap() {
        Data::Histogram(histogram) => {
            let bounds = &histogram.data_points[0].explicit_bounds;
            let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
            ("histogram", bounds.join(" "))
        }
        Data::Sum(sum) if sum.is_monotonic => ("counter", String::new()),
        Data::Sum(_) => ("updowncounter", String::new()),
        Data::Gauge(_) => ("gauge", String::new()),
        other => panic!("{other:?}"),
    };
    Row {
        kind: kind.to_owned(),
        unit: metric.unit.clone(),
        on_page: String::new(),
        buckets,
    }
}

#[tokio::test]
async fn each_metric_has_the_name_kind_unit_and_buckets_of_the_table() {
    let (collector, endpoint) = Collector::start().await;
    let config = TelemetryConfig {
        semconv: Semconv::Both,
        ..TelemetryConfig::default()
    };
    let gateway = Gateway::exporting(&config, &endpoint);
    make_everything_happen(&gateway).await;
    let page = gateway.telemetry.metrics_page();
    gateway.stop().await;

    let metrics = collector.metrics();
    let mut table = rows();
    let types: BTreeMap<_, _> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| *name != "target_info")
        .collect();
    for row in table.values() {
        let kind = match &*row.kind {
            "updowncounter" => "gauge",
            kind => kind,
        };
        assert_eq!(types.get(&*row.on_page), Some(&kind), "{row:?}\n{page}");
    }
    assert_eq!(types.len(), table.len(), "{types:?}");
    for row in table.values_mut() {
        row.on_page.clear();
    }
    let received: BTreeMap<_, _> = metrics
        .iter()
        .map(|(name, metric)| (name.clone(), received(metric)))
        .collect();
    for (name, row) in &received {
        assert_eq!(table.get(name), Some(row), "{name}");
    }
    assert_eq!(received.len(), table.len());
}

#[test]
fn the_guide_lists_each_metric() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let names = rows().into_values().map(|row| row.on_page);
    let missing: Vec<_> = names
        .filter(|name| !guide.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
