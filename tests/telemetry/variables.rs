//! The standard environment variables of OpenTelemetry.

use http_body_util::BodyExt;
use llamatower::telemetry::TelemetryConfig;

use crate::collector::Collector;
use crate::gateway::{Gateway, Log, prepare, two_lines};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const ALL_TRACES: (&str, &str) = ("OTEL_TRACES_SAMPLER", "always_on");

/// What a collector receives for one request, and the log. The variables may contain the
/// collector's endpoint.
async fn collected<const N: usize>(
    variables: impl Fn(&str) -> [(&'static str, String); N],
) -> (Collector, String) {
    let (collector, endpoint) = Collector::start().await;
    let variables = variables(&endpoint);
    let variables = variables.each_ref().map(|(name, value)| (*name, &**value));
    let log = Log::default();
    let gateway = Gateway::start(&TelemetryConfig::default(), &variables, &log);
    gateway.chat().await;
    gateway.stop().await;
    (collector, log.text())
}

/// Like [`collected`], with the collector as the endpoint and one more variable.
async fn collected_with(name: &'static str, value: &'static str) -> (Collector, String) {
    collected(|endpoint| [(ENDPOINT, endpoint.to_owned()), (name, value.to_owned())]).await
}

#[tokio::test]
async fn the_general_endpoint_gets_a_path_for_each_signal_and_a_signal_endpoint_is_used_unchanged()
{
    let (collector, _) = collected(|endpoint| {
        let own = format!("{endpoint}/m");
        [
            (ENDPOINT, format!("{endpoint}/")),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", own),
        ]
    })
    .await;
    assert_eq!(collector.paths(), ["/m", "/v1/traces"]);
}

#[tokio::test]
async fn each_exporter_can_be_turned_off() {
    let (collector, _) = collected_with("OTEL_TRACES_EXPORTER", "none").await;
    assert_eq!(collector.paths(), ["/v1/metrics"]);
    let (collector, log) = collected_with("OTEL_METRICS_EXPORTER", "prometheus").await;
    assert_eq!(collector.paths(), ["/v1/traces"]);
    assert!(log.contains("OTEL_METRICS_EXPORTER=prometheus"), "{log}");
}

#[test]
fn an_invalid_endpoint_is_an_error_that_names_the_variable() {
    let variable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    for endpoint in ["collector:4318", "https://collector", "http://[", "/v1"] {
        let variables = [(variable, endpoint)];
        let prepared = prepare(&TelemetryConfig::default(), &variables, Log::default());
        let error = prepared.err().unwrap().to_string();
        assert!(
            error.contains(variable) && error.contains(endpoint),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_blank_endpoint_counts_as_not_set() {
    let (collector, log) = collected(|_| [(ENDPOINT, " ".to_owned())]).await;
    assert!(
        collector.paths().is_empty() && !log.contains("OTEL"),
        "{log}"
    );
}

/// The client's trace is sampled, so all samplers except `always_off` and ratio 0 keep it.
#[tokio::test]
async fn the_sampler_follows_its_variables() {
    for (sampler, kept) in [
        ("always_on", 3),
        ("always_off", 0),
        ("parentbased_always_off", 3),
        ("parentbased_traceidratio", 3),
        ("unknown", 3),
    ] {
        let (collector, log) = collected_with("OTEL_TRACES_SAMPLER", sampler).await;
        assert_eq!(collector.spans().len(), kept, "{sampler}");
        assert_eq!(
            log.contains("OTEL_TRACES_SAMPLER=unknown"),
            sampler == "unknown"
        );
    }
    let (collector, _) = collected(|endpoint| {
        [
            (ENDPOINT, endpoint.to_owned()),
            ("OTEL_TRACES_SAMPLER", "traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG", "0".to_owned()),
        ]
    })
    .await;
    assert!(collector.spans().is_empty());
    let (_, log) = collected_with("OTEL_TRACES_SAMPLER_ARG", "7").await;
    assert!(log.contains("OTEL_TRACES_SAMPLER_ARG=7"), "{log}");
}

#[tokio::test]
async fn trace_context_is_sent_to_backends_unless_other_propagators_are_set() {
    let is_context_sent = async |list: &str| {
        let (_, endpoint) = Collector::start().await;
        let log = Log::default();
        let variables = [
            (ENDPOINT, &*endpoint),
            ALL_TRACES,
            ("OTEL_PROPAGATORS", list),
        ];
        let gateway = Gateway::start(&TelemetryConfig::default(), &variables, &log);
        let clients = crate::gateway::chat().headers()["traceparent"].clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let answer = gateway.send(1, move |headers| {
            let _ = sender.send(headers["traceparent"] != clients);
            two_lines()
        });
        answer.await.unwrap().collect().await.unwrap();
        gateway.stop().await;
        (receiver.recv().unwrap(), log.text())
    };
    assert!(is_context_sent("tracecontext,baggage").await.0);
    assert!(!is_context_sent("none").await.0);
    let (is_sent, log) = is_context_sent("b3,tracecontext").await;
    assert!(is_sent && log.contains("b3"), "{log}");
}

#[tokio::test]
async fn grpc_is_reported_as_unsupported() {
    let (_, log) = collected_with("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").await;
    assert!(log.contains("http/protobuf"), "{log}");
}
