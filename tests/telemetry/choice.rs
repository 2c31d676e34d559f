//! What a whole gateway tells of its choices, in front of a simulated server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use llamatower::edge::Shutdown;
use llamatower::gateway::Gateway;
use llamatower::settings::{Environment, Settings};
use llamatower::telemetry::TelemetryConfig;
use llamatower_sim::{ModelSpec, Sim, SimHandle};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::collector::*;
use crate::gateway::{LIMIT, Log, prepare};

/// A server whose model takes a moment to load.
async fn slow_to_load() -> SimHandle {
    let model = ModelSpec::new("tiny").with_load_time(Duration::from_millis(50));
    Sim::builder().model(model).start().await.unwrap()
}

/// The addresses for clients and operators that the log names.
fn addresses(log: &Log) -> [String; 2] {
    ["clients", "operators"].map(|audience| {
        let text = log.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut lines = lines.filter(|line: &serde_json::Value| line["message"] == "listening");
        let line = lines.find(|line| line["for"] == audience).unwrap();
        format!("http://{}", line["address"].as_str().unwrap())
    })
}

/// Sends requests, one after the other, through a gateway that knows that no model is in memory,
/// and returns the last metrics page.
async fn send(requests: usize, sim: &SimHandle, endpoint: &str) -> String {
    send_through(sim, endpoint, &[], async |chat| {
        for _ in 0..requests {
            chat().await;
        }
    })
    .await
}

/// The same for requests that `send` sends, each by a call of what it is given.
async fn send_through(
    sim: &SimHandle,
    endpoint: &str,
    settings: &[(&str, &str)],
    send: impl AsyncFnOnce(&dyn Fn() -> BoxFuture<'static, ()>),
) -> String {
    let log = Log::default();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let config = TelemetryConfig::default();
    let (telemetry, dispatch) = prepare(&config, &variables, log.clone()).unwrap();
    let _dispatch = tracing::dispatcher::set_default(&dispatch);
    let environment = [
        ("OLLAMA_URL", &*sim.url()),
        ("LLAMATOWER_LISTEN", "127.0.0.1:0"),
        ("LLAMATOWER_ADMIN_LISTEN", "127.0.0.1:0"),
        ("LLAMATOWER_DRAIN_DELAY", "0"),
    ];
    let environment = Environment::from_iter(environment.iter().chain(settings).copied());
    let settings = Settings::load(None, &environment).unwrap().settings;
    let (telemetry, shutdown) = (Arc::new(telemetry), Shutdown::new());
    let gateway = Gateway::bind(&settings, &telemetry).await.unwrap();
    let serving = tokio::spawn(gateway.serve(shutdown.clone()));
    tokio::task::yield_now().await;
    let [clients, operators] = addresses(&log);

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = async |path: &str| {
        let page = client.get(format!("{operators}{path}")).send().await;
        page.unwrap().text().await.unwrap()
    };
    let is_known = async { while !page("/status").await.contains(r#""resident":[]"#) {} };
    tokio::time::timeout(LIMIT, is_known).await.unwrap();
    let chats = client.clone();
    send(&move || {
        let body = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;
        let answer = chats.post(format!("{clients}/api/chat")).body(body);
        async move {
            let answer = answer.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.bytes().await.unwrap();
        }
        .boxed()
    })
    .await;
    let metrics = page("/metrics").await;
    drop(client);
    shutdown.drain();
    tokio::time::timeout(LIMIT, serving).await.unwrap().unwrap();
    let telemetry = Arc::try_unwrap(telemetry).unwrap();
    telemetry.shutdown(LIMIT).await;
    metrics
}

/// A number among the attributes of a span or of an event.
fn number(attributes: &[KeyValue], name: &str) -> f64 {
    let attribute = attributes.iter().find(|found| found.key == name);
    let value = attribute.and_then(|found| found.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::DoubleValue(number)) => *number,
        other => panic!("{name}: {other:?}"),
    }
}

/// The value of a metric that has one row.
fn value(page: &str, name: &str) -> f64 {
    let mut rows = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{'))
    });
    let row = rows.next().unwrap_or_else(|| panic!("no {name} in {page}"));
    assert!(
        row.contains(r#"gen_ai_request_model="tiny:latest""#),
        "{row}"
    );
    assert!(row.contains("llamatower_backend="), "{row}");
    assert_eq!(rows.next(), None);
    row.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn a_load_is_counted_once_with_the_time_that_the_server_tells() {
    let sim = slow_to_load().await;
    let (_, endpoint) = Collector::start().await;
    let page = send(3, &sim, &endpoint).await;
    assert_eq!(value(&page, "llamatower_model_loads_total"), 1.0);
    assert_eq!(value(&page, "llamatower_model_load_seconds_count"), 1.0);
    let time = value(&page, "llamatower_model_load_seconds_sum");
    assert!((0.05..5.0).contains(&time), "{time}");
}

#[tokio::test]
async fn the_slots_of_a_model_in_memory_are_shown_although_none_are_configured() {
    let sim = slow_to_load().await;
    let (_, endpoint) = Collector::start().await;
    let page = send(0, &sim, &endpoint).await;
    assert!(!page.contains("llamatower_backend_slots{"), "{page}");
    let page = send(1, &slow_to_load().await, &endpoint).await;
    assert_eq!(value(&page, "llamatower_backend_slots"), 2.0);
}

#[tokio::test]
async fn an_attempt_has_the_terms_by_which_its_backend_was_chosen() {
    let sim = slow_to_load().await;
    let (collector, endpoint) = Collector::start().await;
    send(2, &sim, &endpoint).await;
    let attempts = collector.attempts();
    let [first, second] = &attempts[..] else {
        panic!("{} attempts", attempts.len());
    };
    assert!(number(&first.attributes, "llamatower.choice.load") > 0.0);
    assert_eq!(number(&second.attributes, "llamatower.choice.load"), 0.0);
    for attempt in [first, second] {
        for term in ["wait", "work", "affinity"] {
            let name = format!("llamatower.choice.{term}");
            assert!(number(&attempt.attributes, &name).is_finite());
        }
    }
}

/// The events of a span, the first one first.
fn events(span: &Span) -> Vec<&str> {
    let mut events: Vec<_> = span.events.iter().collect();
    events.sort_by_key(|event| event.time_unix_nano);
    events.iter().map(|event| &*event.name).collect()
}

#[tokio::test]
async fn the_span_of_a_request_tells_when_its_backend_was_chosen_and_its_model_loaded() {
    let model = ModelSpec::new("tiny").with_load_time(Duration::from_millis(150));
    let sim = Sim::builder().model(model).start().await.unwrap();
    let (collector, endpoint) = Collector::start().await;
    send(1, &sim, &endpoint).await;
    let span = collector.span_named("chat tiny");
    let expected = [
        "llamatower.backend_chosen",
        "llamatower.model_loaded",
        "llamatower.first_chunk",
    ];
    assert_eq!(events(&span), expected);
    let of = |name: &str| span.events.iter().find(|event| event.name == name);
    let chosen = &of("llamatower.backend_chosen").unwrap().attributes;
    assert!(number(chosen, "llamatower.choice.load") > 0.0);
    let loaded = &of("llamatower.model_loaded").unwrap().attributes;
    assert!(number(loaded, "llamatower.load_time") >= 0.15);
    let tokens = attributes(&span.attributes);
    assert!(tokens["gen_ai.usage.output_tokens"].parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn the_span_of_a_request_tells_how_long_it_was_queued() {
    let sim = slow_to_load().await;
    let (collector, endpoint) = Collector::start().await;
    send_through(
        &sim,
        &endpoint,
        &[("LLAMATOWER_SLOTS", "1")],
        async |chat| {
            futures_util::future::join(chat(), chat()).await;
        },
    )
    .await;
    let spans = collector.spans();
    let of_queue = spans.iter().flat_map(|span| &span.events);
    let waits: Vec<_> = of_queue
        .filter(|event| event.name == "llamatower.queue_left")
        .map(|event| number(&event.attributes, "llamatower.queued"))
        .collect();
    assert_eq!(waits.len(), 1, "one of the two had to wait");
    assert!(waits[0] > 0.0);
}
