//! Telemetry as those see it who receive it: a collector, a scraper, a reader of the log.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::service::service_fn as hyper_service;
use hyper_util::rt::TokioIo;
use llamatower::ollama::fleet::{BackendStatus, QueueStatus};
use llamatower::telemetry::{
    FleetView, LogFormat, Telemetry, TelemetryConfig, TelemetryError, Upstream, attempt_spans,
    names,
};
use llamatower_layers::breaker::State;
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable};
use llamatower_layers::{
    BoxError, Dialect, Fail, Failure, LlmRequest, Operation, Outcome, OutcomeLayer, Record, Side,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as Code};
use prost::Message;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tracing::Dispatch;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENTS_SPAN: &str = "b7ad6b7169203331";
const LIMIT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Answer = Result<Response<Body>, BoxError>;

// === a collector ===

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Bytes)>>>);

impl Collector {
    /// Starts to listen and says where.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let received = collector.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let received = received.clone();
                let service = hyper_service(move |request| received.clone().receive(request));
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
            }
        });
        (collector, endpoint)
    }

    async fn receive(
        self,
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        self.0.lock().unwrap().push((path, body));
        Ok(Response::new(Full::default()))
    }

    fn received<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let all = self.0.lock().unwrap();
        let mine = all.iter().filter(|(to, _)| to == path);
        mine.map(|(_, body)| M::decode(body.clone()).unwrap())
            .collect()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }

    fn traces(&self) -> Vec<ExportTraceServiceRequest> {
        self.received("/v1/traces")
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.traces().into_iter();
        requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    fn span(&self, kind: SpanKind) -> Span {
        let mut spans = self.spans();
        spans.retain(|span| span.kind == kind as i32);
        assert_eq!(spans.len(), 1, "one span of kind {kind:?}");
        spans.remove(0)
    }

    fn metrics(&self) -> HashMap<String, Metric> {
        let requests: Vec<ExportMetricsServiceRequest> = self.received("/v1/metrics");
        let requests = requests.into_iter();
        requests
            .flat_map(|request| request.resource_metrics)
            .flat_map(|resource| resource.scope_metrics)
            .flat_map(|scope| scope.metrics)
            .map(|metric| (metric.name.clone(), metric))
            .collect()
    }
}

fn attributes(all: &[KeyValue]) -> HashMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        other => Some(format!("{other:?}")),
    };
    all.iter()
        .map(|attribute| (attribute.key.as_str(), text(attribute).unwrap()))
        .collect()
}

fn expect(all: &[KeyValue], expected: &[(&str, &str)]) {
    let all = attributes(all);
    for (name, value) in expected {
        assert_eq!(all.get(name).map(String::as_str), Some(*value), "{name}");
    }
}

fn error_type(span: &Span) -> Option<String> {
    attributes(&span.attributes).remove("error.type")
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code == Code::Error as i32)
}

// === a log that can be read ===

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

// === a gateway of four layers ===

struct Gateway {
    telemetry: Telemetry,
    _dispatch: tracing::dispatcher::DefaultGuard,
}

fn prepare(
    config: &TelemetryConfig,
    variables: &[(&str, &str)],
    log: Log,
) -> Result<(Telemetry, Dispatch), TelemetryError> {
    let look_up = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name)?;
        Some(found.1.to_owned())
    };
    Telemetry::prepare(config, &look_up, move || log.clone())
}

impl Gateway {
    fn start(config: &TelemetryConfig, variables: &[(&str, &str)], log: &Log) -> Self {
        let (telemetry, dispatch) = prepare(config, variables, log.clone()).unwrap();
        Self {
            telemetry,
            _dispatch: tracing::dispatcher::set_default(&dispatch),
        }
    }

    fn silent() -> Self {
        Self::start(&TelemetryConfig::default(), &[], &Log::default())
    }

    fn exporting_to(endpoint: &str) -> Self {
        Self::exporting(&TelemetryConfig::default(), endpoint)
    }

    fn exporting(config: &TelemetryConfig, endpoint: &str) -> Self {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ];
        Self::start(config, &variables, &Log::default())
    }

    /// Sends a request to a backend that answers like this, at the `attempts`th attempt.
    async fn send(&self, attempts: u32, backend: impl Fn(HeaderMap) -> Answer + Clone) -> Answer {
        let upstream = Upstream {
            name: "gpu-1".into(),
            provider: names::OLLAMA,
            address: "10.0.0.7".into(),
            port: 11434,
        };
        let answer = move |request: Request<Full<Bytes>>| {
            std::future::ready(backend(request.headers().clone()))
        };
        let stack = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(OutcomeLayer::new(self.telemetry.observer()))
            .layer(self.telemetry.request_span_layer())
            .map_request(move |request| scanned(request, attempts))
            .layer(attempt_spans(upstream, self.telemetry.propagation()))
            .service(service_fn(answer));
        let answer = stack.oneshot(chat()).await?;
        Ok(answer.map(|body| body.boxed_unsync()))
    }

    /// Sends a request to a backend that streams two lines, and reads them.
    async fn chat(&self) {
        let answer = self.send(1, |_| two_lines()).await.unwrap();
        answer.collect().await.unwrap();
    }

    /// Sends a request that is answered inside the gateway, with this in its record.
    async fn refuse(&self, status: StatusCode, change: impl Fn(&mut Outcome) + Clone) {
        let stack = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(OutcomeLayer::new(self.telemetry.observer()))
            .service(service_fn(move |request: Request<Full<Bytes>>| {
                Record::update_in(request.extensions(), &change);
                let mut answer = Response::new(Full::new(Bytes::new()));
                *answer.status_mut() = status;
                std::future::ready(Ok::<_, Infallible>(answer))
            }));
        stack.oneshot(chat()).await.unwrap();
    }

    /// Sends what is left and gives the subscriber back.
    async fn stop(self) {
        self.telemetry.shutdown(LIMIT).await;
    }
}

/// What the layers between the two spans find out.
fn scanned(mut request: Request<Full<Bytes>>, attempts: u32) -> Request<Full<Bytes>> {
    let model: Arc<str> = "llama3.2".into();
    let llm = LlmRequest {
        dialect: Dialect::Ollama,
        operation: Operation::Chat,
        model: Some(model.clone()),
        stream: true,
        keep_alive: None,
        num_ctx: None,
        has_no_prompt: false,
        body_bytes: 2,
    };
    llm.put_into(request.extensions_mut());
    Record::update_in(request.extensions(), |outcome| {
        outcome.model = Some(model);
        outcome.stream = true;
        outcome.attempts = attempts;
        outcome.backend = Some("gpu-1".into());
    });
    request
}

fn chat() -> Request<Full<Bytes>> {
    Request::post("/api/chat")
        .header("host", "gateway:3000")
        .header("x-request-id", "id-1")
        .header("traceparent", format!("00-{TRACE}-{CLIENTS_SPAN}-01"))
        .header("tracestate", "vendor=1")
        .body(Full::default())
        .unwrap()
}

fn answer(status: StatusCode, frames: Vec<Result<&'static str, BoxError>>) -> Answer {
    let frames = frames.into_iter().map(|frame| {
        let frame = frame?;
        Ok(Frame::data(Bytes::from(frame)))
    });
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    Ok(Response::builder().status(status).body(body)?)
}

fn two_lines() -> Answer {
    answer(StatusCode::OK, vec![Ok("{}\n"), Ok("{\"done\":true}\n")])
}

#[derive(Debug)]
struct Died;

impl std::fmt::Display for Died {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the backend died")
    }
}

impl std::error::Error for Died {}

impl Fail for Died {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "backend_died"
    }
}

fn died() -> BoxError {
    Failure::from(Died).into()
}

// === traces ===

#[tokio::test]
async fn a_trace_goes_from_the_client_through_the_gateway_to_the_backend() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let told = seen.clone();
    let answer = gateway.send(1, move |headers| {
        *told.lock().unwrap() = headers;
        two_lines()
    });
    answer.await.unwrap().collect().await.unwrap();
    gateway.stop().await;

    let server = collector.span(SpanKind::Server);
    assert_eq!(server.name, "POST /api/chat");
    assert_eq!(hex(&server.trace_id), TRACE);
    assert_eq!(hex(&server.parent_span_id), CLIENTS_SPAN);
    assert_eq!(server.trace_state, "vendor=1");
    assert!(!is_error(&server));
    assert_eq!(error_type(&server), None);
    let of_server = [
        ("http.request.method", "POST"),
        ("http.route", "/api/chat"),
        ("http.response.status_code", "200"),
        ("url.path", "/api/chat"),
        ("url.scheme", "http"),
        ("server.address", "gateway"),
        ("server.port", "3000"),
        ("llamatower.ending", "complete"),
        ("llamatower.request_id", "id-1"),
    ];
    expect(&server.attributes, &of_server);

    let client = collector.span(SpanKind::Client);
    assert_eq!(client.name, "chat llama3.2");
    assert_eq!(hex(&client.trace_id), TRACE);
    assert_eq!(client.parent_span_id, server.span_id);
    assert!(!is_error(&client));
    let of_client = [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "ollama"),
        ("gen_ai.request.model", "llama3.2"),
        ("gen_ai.request.stream", "true"),
        ("server.address", "10.0.0.7"),
        ("server.port", "11434"),
        ("llamatower.backend", "gpu-1"),
    ];
    expect(&client.attributes, &of_client);
    let client_attributes = attributes(&client.attributes);
    assert!(!client_attributes.contains_key("http.request.resend_count"));

    let seen = seen.lock().unwrap();
    let expected = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(seen["traceparent"], expected);
    assert_eq!(seen["tracestate"], "vendor=1");

    let traces = collector.traces();
    let resource = traces[0].resource_spans[0].resource.as_ref().unwrap();
    expect(&resource.attributes, &[("service.name", "llamatower")]);
}

#[tokio::test]
async fn both_spans_last_to_the_end_of_the_stream() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let mut answer = gateway.send(1, |_| two_lines()).await.unwrap();
    let head_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    while answer.frame().await.is_some() {}
    gateway.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2);
    for span in spans {
        assert!(u128::from(span.end_time_unix_nano) >= head_at.as_nanos());
    }
}

#[tokio::test]
async fn an_untrusted_trace_ends_at_the_gateway() {
    let (collector, endpoint) = Collector::start().await;
    let config = TelemetryConfig {
        trusts_inbound_trace: false,
        ..TelemetryConfig::default()
    };
    let gateway = Gateway::exporting(&config, &endpoint);
    let answer = gateway.send(1, |headers| {
        assert!(!headers["traceparent"].to_str().unwrap().contains(TRACE));
        assert!(!headers.contains_key("tracestate"));
        two_lines()
    });
    answer.await.unwrap().collect().await.unwrap();
    gateway.stop().await;
    let server = collector.span(SpanKind::Server);
    assert!(server.parent_span_id.is_empty());
    assert_ne!(hex(&server.trace_id), TRACE);
}

/// The spans of one request whose backend answers like this; its body is read to the end.
async fn spans_of(attempts: u32, backend: fn() -> Answer) -> (Span, Span) {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    if let Ok(answer) = gateway.send(attempts, move |_| backend()).await {
        let _ = answer.collect().await;
    }
    gateway.stop().await;
    let server = collector.span(SpanKind::Server);
    (server, collector.span(SpanKind::Client))
}

#[tokio::test]
async fn a_4xx_is_an_error_of_the_attempt_and_not_of_the_request() {
    let (server, client) = spans_of(1, || answer(StatusCode::NOT_FOUND, vec![])).await;
    assert!(!is_error(&server));
    assert_eq!(error_type(&server), None);
    assert!(is_error(&client));
    assert_eq!(error_type(&client).as_deref(), Some("404"));
}

#[tokio::test]
async fn a_5xx_is_an_error_of_both() {
    let (server, client) = spans_of(1, || answer(StatusCode::SERVICE_UNAVAILABLE, vec![])).await;
    assert!(is_error(&server) && is_error(&client));
    assert_eq!(error_type(&server).as_deref(), Some("503"));
    assert_eq!(error_type(&client).as_deref(), Some("503"));
}

#[tokio::test]
async fn a_later_attempt_says_how_often_it_was_sent_before() {
    let (_, client) = spans_of(3, two_lines).await;
    expect(&client.attributes, &[("http.request.resend_count", "2")]);
}

#[tokio::test]
async fn a_failure_before_the_head_is_named() {
    let (server, client) = spans_of(1, || Err(died())).await;
    assert!(is_error(&server) && is_error(&client));
    assert_eq!(error_type(&client).as_deref(), Some("backend_died"));
}

#[tokio::test]
async fn a_stream_that_breaks_is_an_error_though_its_status_was_200() {
    let broken = || answer(StatusCode::OK, vec![Ok("{}\n"), Err(died())]);
    let (server, client) = spans_of(1, broken).await;
    assert!(is_error(&server) && is_error(&client));
    assert_eq!(error_type(&client).as_deref(), Some("backend_died"));
    expect(&server.attributes, &[("llamatower.ending", "broken")]);
}

#[tokio::test]
async fn a_clients_cancel_is_no_error() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let mut answer = gateway.send(1, |_| two_lines()).await.unwrap();
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    gateway.stop().await;
    let server = collector.span(SpanKind::Server);
    assert!(!is_error(&server) && !is_error(&collector.span(SpanKind::Client)));
    expect(&server.attributes, &[("llamatower.ending", "cancelled")]);
}

#[tokio::test]
async fn without_an_endpoint_no_span_is_made_and_the_clients_trace_is_passed_on() {
    let (collector, _) = Collector::start().await;
    let gateway = Gateway::silent();
    let answer = gateway.send(1, |headers| {
        assert!(tracing::Span::current().is_none());
        let expected = format!("00-{TRACE}-{CLIENTS_SPAN}-01");
        assert_eq!(headers["traceparent"], expected);
        assert_eq!(headers["tracestate"], "vendor=1");
        two_lines()
    });
    answer.await.unwrap().collect().await.unwrap();
    gateway.stop().await;
    assert!(collector.is_empty());
}

#[tokio::test]
async fn a_disabled_sdk_exports_nothing() {
    let (collector, endpoint) = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let gateway = Gateway::start(&TelemetryConfig::default(), &variables, &Log::default());
    gateway.chat().await;
    gateway.stop().await;
    assert!(collector.is_empty());
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_the_shutdown_up_no_longer_than_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let gateway = Gateway::exporting_to(&endpoint);
    gateway.chat().await;
    let stop = gateway.telemetry.shutdown(Duration::from_millis(100));
    tokio::time::timeout(LIMIT / 2, stop).await.unwrap();
}

// === metrics ===

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
            panic!("{name} is no histogram");
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

/// The value of the first line of the page that begins so and holds all of `labels`.
fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_meant = |line: &&str| {
        let named = line.strip_prefix(name);
        named.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let line = page.lines().find(is_meant)?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Two backends, one of them down, and what waits for three models, of which they have one.
struct TwoBackends;

impl FleetView for TwoBackends {
    fn status(&self) -> Vec<BackendStatus> {
        let row = |name: &str, is_up, in_flight| BackendStatus {
            name: name.into(),
            is_up,
            in_flight,
            slots: 4.try_into().ok().filter(|_| is_up),
            breaker: match is_up {
                true => State::Closed,
                false => State::Open,
            },
        };
        vec![row("gpu-1", true, 3), row("gpu-2", false, 0)]
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
        model == "llama3.2"
    }
}

#[tokio::test]
async fn the_page_of_metrics_has_every_name() {
    let gateway = Gateway::silent();
    gateway.telemetry.metrics().observe(Arc::new(TwoBackends));
    gateway.telemetry.metrics().retried("backend_died");
    gateway.chat().await;
    drop(gateway.send(1, |_| two_lines()).await.unwrap());
    let open = gateway.send(1, |_| two_lines()).await.unwrap();

    let page = gateway.telemetry.metrics_page();
    let route = "http_route=\"/api/chat\"";
    let model = "gen_ai_request_model=\"llama3.2\"";
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

// === the log ===

async fn log_of(format: LogFormat, model: &'static str) -> String {
    let log = Log::default();
    let config = TelemetryConfig {
        log_format: format,
        ..TelemetryConfig::default()
    };
    let gateway = Gateway::start(&config, &[], &log);
    let change = |outcome: &mut Outcome| {
        outcome.model = Some(model.into());
        outcome.identity = Some("team-a".into());
        outcome.backend = Some("gpu-1".into());
        outcome.attempts = 2;
        outcome.error = Some("backend_died");
    };
    gateway.refuse(StatusCode::BAD_GATEWAY, change).await;
    log.text()
}

#[tokio::test]
async fn a_request_leaves_one_json_line_with_what_came_of_it() {
    let text = log_of(LogFormat::Json, "llama3.2").await;
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (field, value) in [
        ("target", "llamatower::access"),
        ("level", "INFO"),
        ("method", "POST"),
        ("route", "/api/chat"),
        ("model", "llama3.2"),
        ("backend", "gpu-1"),
        ("ending", "complete"),
        ("error", "backend_died"),
        ("request_id", "id-1"),
        ("identity", "team-a"),
    ] {
        assert_eq!(line[field], value, "{field} in {text}");
    }
    assert_eq!(line["status"], 502);
    assert_eq!(line["attempts"], 2);
    assert!(line["duration"].is_f64() && line["ttfb"].is_f64(), "{text}");
    assert!(line.get("path").is_none());
}

#[tokio::test]
async fn nobody_writes_a_line_of_the_log_by_the_name_of_a_model() {
    let model = "x\n2030-01-01 INFO llamatower::access: \u{1b}[31mforged\r";
    for format in [LogFormat::Human, LogFormat::Json] {
        let text = log_of(format, model).await;
        assert_eq!(text.lines().count(), 1, "{text}");
        let is_control = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(is_control), "{text:?}");
    }
}

#[tokio::test]
async fn a_long_name_of_a_model_makes_no_long_line() {
    let model: &'static str = "\u{e9}".repeat(100_000).leak();
    let text = log_of(LogFormat::Json, model).await;
    assert!(text.len() < 2_000, "{}", text.len());
}

#[tokio::test]
async fn the_process_has_one_log() {
    let config = TelemetryConfig::default();
    let first = Telemetry::start(&config, &|_| None).unwrap();
    let second = Telemetry::start(&config, &|_| None);
    assert!(matches!(second, Err(TelemetryError::AlreadyStarted)));
    assert!(
        first
            .metrics_page()
            .contains("llamatower_log_lines_dropped_total")
    );
    first.shutdown(LIMIT).await;
}

#[test]
fn a_filter_that_cannot_be_read_is_named() {
    let config = TelemetryConfig {
        log_filter: "llamatower=loud".to_owned(),
        ..TelemetryConfig::default()
    };
    let error = prepare(&config, &[], Log::default()).err().unwrap();
    assert!(error.to_string().contains("llamatower=loud"), "{error}");
}
