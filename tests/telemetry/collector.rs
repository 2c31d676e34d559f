//! An OpenTelemetry collector, and functions to read what it received.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn as hyper_service;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as Code};
use prost::Message;
use tokio::net::TcpListener;

#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<(String, Bytes)>>>);

impl Collector {
    /// Starts the collector and returns its endpoint.
    pub(crate) async fn start() -> (Self, String) {
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

    pub(crate) async fn receive(
        self,
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        self.0.lock().unwrap().push((path, body));
        Ok(Response::new(Full::default()))
    }

    pub(crate) fn received<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let all = self.0.lock().unwrap();
        let mine = all.iter().filter(|(to, _)| to == path);
        mine.map(|(_, body)| M::decode(body.clone()).unwrap())
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }

    /// The requested paths, each once.
    pub(crate) fn paths(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let paths: BTreeSet<_> = all.iter().map(|(path, _)| path.clone()).collect();
        paths.into_iter().collect()
    }

    pub(crate) fn traces(&self) -> Vec<ExportTraceServiceRequest> {
        self.received("/v1/traces")
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.traces().into_iter();
        requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }

    pub(crate) fn span(&self, kind: SpanKind) -> Span {
        let mut spans = self.spans();
        spans.retain(|span| span.kind == kind as i32);
        assert_eq!(spans.len(), 1, "one span of kind {kind:?}");
        spans.remove(0)
    }

    pub(crate) fn span_named(&self, name: &str) -> Span {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        assert_eq!(spans.len(), 1, "one span {name}");
        spans.remove(0)
    }

    /// The spans of the attempts, the first one first.
    pub(crate) fn attempts(&self) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| {
            let has_method = || attributes(&span.attributes).contains_key("http.request.method");
            span.kind == SpanKind::Client as i32 && has_method()
        });
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }

    pub(crate) fn attempt(&self) -> Span {
        let mut attempts = self.attempts();
        assert_eq!(attempts.len(), 1);
        attempts.remove(0)
    }

    pub(crate) fn metrics(&self) -> HashMap<String, Metric> {
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

pub(crate) fn attributes(all: &[KeyValue]) -> HashMap<&str, String> {
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

pub(crate) fn expect(all: &[KeyValue], expected: &[(&str, &str)]) {
    let all = attributes(all);
    for (name, value) in expected {
        assert_eq!(all.get(name).map(String::as_str), Some(*value), "{name}");
    }
}

pub(crate) fn error_type(span: &Span) -> Option<String> {
    attributes(&span.attributes).remove("error.type")
}

pub(crate) fn hex(id: &[u8]) -> String {
    HEXLOWER.encode(id)
}

pub(crate) fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code == Code::Error as i32)
}
