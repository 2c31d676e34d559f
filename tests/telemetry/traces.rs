//! Spans, and the trace context from the client and to the backend.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use llamatower::telemetry::{TelemetryConfig, attempt_spans, names};
use llamatower_layers::Record;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};

use crate::collector::*;
use crate::gateway::*;

#[tokio::test]
async fn a_trace_goes_from_the_client_through_the_gateway_to_the_backend() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let forwarded_context = seen.clone();
    let answer = gateway.send(1, move |headers| {
        *forwarded_context.lock().unwrap() = headers;
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
        ("client.address", "198.51.100.7"),
        ("llamatower.ending", "complete"),
        ("llamatower.request_id", "id-1"),
    ];
    expect(&server.attributes, &of_server);

    let operation = collector.span_named("chat llama3.2");
    assert_eq!(operation.kind, SpanKind::Client as i32);
    assert_eq!(operation.parent_span_id, server.span_id);
    assert!(!is_error(&operation));
    let of_operation = [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "ollama"),
        ("gen_ai.request.model", "llama3.2"),
        ("gen_ai.response.model", "llama3.2"),
        ("gen_ai.request.stream", "true"),
        ("llamatower.backend", "gpu-1"),
    ];
    expect(&operation.attributes, &of_operation);
    let of_operation = attributes(&operation.attributes);
    assert_eq!(
        of_operation["gen_ai.response.time_to_first_chunk"],
        "DoubleValue(0.04)"
    );
    assert!(!of_operation.contains_key("gen_ai.response.finish_reasons"));

    let client = collector.attempt();
    assert_eq!(client.kind, SpanKind::Client as i32);
    assert_eq!(hex(&client.trace_id), TRACE);
    assert_eq!(client.parent_span_id, operation.span_id);
    assert!(!is_error(&client));
    let of_client = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("server.address", "10.0.0.7"),
        ("server.port", "11434"),
        ("url.full", "http://10.0.0.7:11434/ollama/api/chat"),
        ("llamatower.backend", "gpu-1"),
    ];
    expect(&client.attributes, &of_client);
    let client_attributes = attributes(&client.attributes);
    assert!(!client_attributes.contains_key("http.request.resend_count"));
    assert!(!client_attributes.contains_key("gen_ai.request.model"));

    let seen = seen.lock().unwrap();
    let expected = format!("00-{TRACE}-{}-01", hex(&client.span_id));
    assert_eq!(seen["traceparent"], expected);
    assert_eq!(seen["tracestate"], "vendor=1");

    let traces = collector.traces();
    let resource = traces[0].resource_spans[0].resource.as_ref().unwrap();
    expect(&resource.attributes, &[("service.name", "llamatower")]);
}

#[tokio::test]
async fn the_span_of_a_request_for_an_alias_names_the_model_that_answered() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let mut request = chat();
    let served = "qwen2.5:7b".parse().unwrap();
    request.headers_mut().insert(SERVED, served);
    let answer = gateway.send_request(request, 1, |_| two_lines());
    answer.await.unwrap().collect().await.unwrap();
    gateway.stop().await;
    let names = [
        ("gen_ai.request.model", "llama3.2"),
        ("gen_ai.response.model", "qwen2.5:7b"),
    ];
    expect(&collector.span(SpanKind::Server).attributes, &names);
    expect(&collector.span_named("chat llama3.2").attributes, &names);
}

#[tokio::test]
async fn each_wait_is_one_event_whatever_the_attempts_and_each_attribute_is_there_once() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let to = |provider| {
        let backend = service_fn(async |_: Request<Full<Bytes>>| two_lines());
        attempt_spans(upstream(provider), gateway.telemetry.tracer()).layer(backend)
    };
    let (first, last) = (to(names::OLLAMA), to(names::GROQ));
    let attempts = service_fn(move |request: Request<Full<Bytes>>| {
        let (first, last) = (first.clone(), last.clone());
        async move {
            let wait = |seconds| {
                Record::update_in(request.extensions(), |outcome| {
                    let before = outcome.queued.unwrap_or_default();
                    outcome.queued = Some(before + Duration::from_secs(seconds));
                });
            };
            wait(1);
            first.clone().oneshot(request.clone()).await?;
            first.oneshot(request.clone()).await?;
            wait(2);
            let answer = last.oneshot(request.clone()).await;
            wait(4);
            answer
        }
    });
    let answer = gateway.operate(chat(), 3, attempts).await.unwrap();
    answer.collect().await.unwrap();
    gateway.stop().await;
    let operation = collector.span_named("chat llama3.2");
    let waits = operation.events.iter();
    let waits = waits.filter(|event| event.name == "llamatower.queue_left");
    let waits: Vec<_> = waits
        .map(|event| attributes(&event.attributes)["llamatower.queued"].clone())
        .collect();
    assert_eq!(
        waits,
        ["DoubleValue(1.0)", "DoubleValue(2.0)", "DoubleValue(4.0)"]
    );
    let mut keys: Vec<_> = operation.attributes.iter().map(|set| &set.key).collect();
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "{:?}", operation.attributes);
    expect(&operation.attributes, &[("gen_ai.provider.name", "groq")]);
}

#[tokio::test]
async fn the_span_of_a_request_that_no_server_was_asked_for_says_so() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let cached = service_fn(async |_: Request<Full<Bytes>>| two_lines());
    let answer = gateway.operate(chat(), 0, cached).await.unwrap();
    answer.collect().await.unwrap();
    gateway.stop().await;
    let operation = collector.span_named("chat llama3.2");
    let expected = [
        ("gen_ai.provider.name", "ollama"),
        ("llamatower.attempts", "0"),
    ];
    expect(&operation.attributes, &expected);
    let set = attributes(&operation.attributes);
    assert!(!set.contains_key("gen_ai.response.time_to_first_chunk"));
}

#[tokio::test]
async fn all_spans_end_with_the_stream() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let mut answer = gateway.send(1, |_| two_lines()).await.unwrap();
    let head_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    while answer.frame().await.is_some() {}
    gateway.stop().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3);
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

/// The spans of a request whose backend gives this answer; the body is read to its end.
async fn spans_of(attempts: u32, backend: fn() -> Answer) -> (Span, Span) {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    if let Ok(answer) = gateway.send(attempts, move |_| backend()).await {
        let _ = answer.collect().await;
    }
    gateway.stop().await;
    let server = collector.span(SpanKind::Server);
    let operation = collector.span_named("chat llama3.2");
    assert_eq!(is_error(&operation), is_error(&collector.attempt()));
    (server, collector.attempt())
}

#[tokio::test]
async fn a_4xx_is_an_error_only_of_the_attempt() {
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
async fn a_later_attempt_has_its_resend_count() {
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
async fn a_broken_stream_with_status_200_is_an_error() {
    let broken = || answer(StatusCode::OK, vec![Ok("{}\n"), Err(died())]);
    let (server, client) = spans_of(1, broken).await;
    assert!(is_error(&server) && is_error(&client));
    assert_eq!(error_type(&client).as_deref(), Some("backend_died"));
    expect(&server.attributes, &[("llamatower.ending", "broken")]);
}

#[tokio::test]
async fn a_cancellation_by_the_client_is_no_error() {
    let (collector, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let mut answer = gateway.send(1, |_| two_lines()).await.unwrap();
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    gateway.stop().await;
    let server = collector.span(SpanKind::Server);
    assert!(!is_error(&server) && !is_error(&collector.attempt()));
    expect(&server.attributes, &[("llamatower.ending", "cancelled")]);
    let operation = collector.span_named("chat llama3.2");
    assert!(!is_error(&operation));
    let reasons = attributes(&operation.attributes);
    assert!(reasons["gen_ai.response.finish_reasons"].contains("error"));
}

#[tokio::test]
async fn without_an_endpoint_no_span_is_created_and_the_clients_trace_is_forwarded() {
    let (collector, _) = Collector::start().await;
    let gateway = Gateway::silent();
    let answer = gateway.send(1, |headers| {
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
async fn a_silent_collector_delays_the_shutdown_only_up_to_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let gateway = Gateway::exporting_to(&endpoint);
    gateway.chat().await;
    let stop = gateway.telemetry.shutdown(Duration::from_millis(100));
    tokio::time::timeout(LIMIT / 2, stop).await.unwrap();
}

#[tokio::test]
async fn while_the_collector_refuses_spans_none_is_created_and_the_clients_trace_is_forwarded() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let gateway = Gateway::exporting_to(&endpoint);
    let clients = format!("00-{TRACE}-{CLIENTS_SPAN}-01");
    // The first batch is sent after some seconds; it fails.
    let forwarded = async {
        while forwarded_context(&gateway, &[&clients]).await["traceparent"] != clients {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, forwarded).await.unwrap();
    let page = gateway.telemetry.metrics_page();
    let left_out = "llamatower_requests_without_trace_total 1";
    assert!(page.contains(left_out), "{page}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_trace_that_the_sampler_leaves_out_goes_on_unsampled() {
    let (collector, endpoint) = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ];
    let gateway = Gateway::start(&TelemetryConfig::default(), &variables, &Log::default());
    let clients = format!("00-{TRACE}-{CLIENTS_SPAN}-01");
    let context = forwarded_context(&gateway, &[&clients]).await;
    let parent = context["traceparent"].to_str().unwrap();
    assert!(parent.starts_with(&format!("00-{TRACE}-")), "{parent}");
    assert!(parent.ends_with("-00"), "{parent}");
    assert!(!parent.contains(CLIENTS_SPAN), "{parent}");
    gateway.stop().await;
    assert!(collector.spans().is_empty());
}

/// The trace context that a backend receives when a client sends these parents and two states.
async fn forwarded_context(gateway: &Gateway, parents: &[&str]) -> HeaderMap {
    let mut request = chat();
    let headers = request.headers_mut();
    headers.remove("traceparent");
    for parent in parents {
        headers.append("traceparent", parent.parse().unwrap());
    }
    headers.append("tracestate", "other=2".parse().unwrap());
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let forwarded_context = seen.clone();
    let answer = gateway.send_request(request, 1, move |headers| {
        *forwarded_context.lock().unwrap() = headers;
        two_lines()
    });
    answer.await.unwrap().collect().await.unwrap();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.remove("host");
    seen.remove("x-request-id");
    seen
}

#[tokio::test]
async fn a_malformed_parent_and_its_state_are_not_forwarded() {
    let valid = format!("00-{TRACE}-{CLIENTS_SPAN}-01");
    let gateway = Gateway::silent();
    for malformed in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-00",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
    ] {
        assert!(
            forwarded_context(&gateway, &[malformed]).await.is_empty(),
            "{malformed}"
        );
    }
    assert!(
        forwarded_context(&gateway, &[&valid, &valid])
            .await
            .is_empty()
    );
    let (_, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let forwarded_context = forwarded_context(&gateway, &["00-of-no-trace-01"]).await;
    assert!(
        forwarded_context.contains_key("traceparent")
            && !forwarded_context.contains_key("tracestate")
    );
}

#[tokio::test]
async fn a_later_version_is_continued_with_its_whole_state() {
    let (_, endpoint) = Collector::start().await;
    let gateway = Gateway::exporting_to(&endpoint);
    let later = format!("01-{TRACE}-{CLIENTS_SPAN}-01-more");
    let forwarded_context = forwarded_context(&gateway, &[&later]).await;
    assert!(
        forwarded_context["traceparent"]
            .to_str()
            .unwrap()
            .contains(TRACE)
    );
    assert_eq!(forwarded_context["tracestate"], "vendor=1,other=2");
}

#[tokio::test]
async fn without_spans_a_trusted_parent_is_forwarded() {
    let valid = format!("00-{TRACE}-{CLIENTS_SPAN}-01");
    let passed = forwarded_context(&Gateway::silent(), &[&valid]).await;
    assert_eq!(passed["traceparent"], valid);
    assert_eq!(passed.get_all("tracestate").iter().count(), 2);
    let config = TelemetryConfig {
        trusts_inbound_trace: false,
        ..TelemetryConfig::default()
    };
    let wary = Gateway::start(&config, &[], &Log::default());
    assert!(forwarded_context(&wary, &[&valid]).await.is_empty());
}
