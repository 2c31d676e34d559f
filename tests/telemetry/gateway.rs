//! A gateway of four layers, with a readable log.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use llamatower::telemetry::{
    Telemetry, TelemetryConfig, TelemetryError, Upstream, attempt_spans, names,
};
use llamatower_layers::endpoint::{EndpointLayer, EndpointTable};
use llamatower_layers::{
    BoxError, ClientAddress, Dialect, Fail, Failure, LlmRequest, Operation, Outcome, OutcomeLayer,
    Record, Side,
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tracing::Dispatch;

pub(crate) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub(crate) const CLIENTS_SPAN: &str = "b7ad6b7169203331";
/// The time from an attempt to its first chunk.
pub(crate) const TO_FIRST_CHUNK: Duration = Duration::from_millis(40);
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Answer = Result<Response<Body>, BoxError>;

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

pub(crate) struct Gateway {
    pub(crate) telemetry: Telemetry,
    _dispatch: tracing::dispatcher::DefaultGuard,
}

pub(crate) fn prepare(
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
    pub(crate) fn start(config: &TelemetryConfig, variables: &[(&str, &str)], log: &Log) -> Self {
        let (telemetry, dispatch) = prepare(config, variables, log.clone()).unwrap();
        Self {
            telemetry,
            _dispatch: tracing::dispatcher::set_default(&dispatch),
        }
    }

    pub(crate) fn silent() -> Self {
        Self::start(&TelemetryConfig::default(), &[], &Log::default())
    }

    pub(crate) fn exporting_to(endpoint: &str) -> Self {
        Self::exporting(&TelemetryConfig::default(), endpoint)
    }

    pub(crate) fn exporting(config: &TelemetryConfig, endpoint: &str) -> Self {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ];
        Self::start(config, &variables, &Log::default())
    }

    /// Sends a request to a backend that gives this answer, at the `attempts`th attempt.
    pub(crate) async fn send(
        &self,
        attempts: u32,
        backend: impl Fn(HeaderMap) -> Answer + Clone,
    ) -> Answer {
        self.send_request(chat(), attempts, backend).await
    }

    pub(crate) async fn send_request(
        &self,
        request: Request<Full<Bytes>>,
        attempts: u32,
        backend: impl Fn(HeaderMap) -> Answer + Clone,
    ) -> Answer {
        self.send_to(names::OLLAMA, request, attempts, backend)
            .await
    }

    /// The same to a server of another provider.
    pub(crate) async fn send_to(
        &self,
        provider: &'static str,
        request: Request<Full<Bytes>>,
        attempts: u32,
        backend: impl Fn(HeaderMap) -> Answer + Clone,
    ) -> Answer {
        let answer = service_fn(move |request: Request<Full<Bytes>>| {
            let now = Instant::now();
            Record::update_in(request.extensions(), |outcome| {
                outcome.attempted(now - TO_FIRST_CHUNK, now);
            });
            std::future::ready(backend(request.headers().clone()))
        });
        let attempt = attempt_spans(upstream(provider), self.telemetry.tracer()).layer(answer);
        self.operate(request, attempts, attempt).await
    }

    /// Sends a request that this service answers inside of the span of its operation.
    pub(crate) async fn operate<S, B>(
        &self,
        request: Request<Full<Bytes>>,
        attempts: u32,
        service: S,
    ) -> Answer
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let stack = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(OutcomeLayer::new(self.telemetry.observer()))
            .layer(self.telemetry.request_span_layer())
            .map_request(move |request| scanned(request, attempts))
            .layer(self.telemetry.inference_span_layer())
            .service(service);
        let answer = stack.oneshot(request).await?;
        Ok(answer.map(|body| body.boxed_unsync()))
    }

    /// Sends a request to a backend that streams two lines, and reads the answer.
    pub(crate) async fn chat(&self) {
        let answer = self.send(1, |_| two_lines()).await.unwrap();
        answer.collect().await.unwrap();
    }

    /// Sends a request that the gateway itself answers, and changes its record with `change`.
    pub(crate) async fn refuse(&self, status: StatusCode, change: impl Fn(&mut Outcome) + Clone) {
        self.answer(chat(), status, change).await;
    }

    /// The same for any request.
    pub(crate) async fn answer(
        &self,
        request: Request<Full<Bytes>>,
        status: StatusCode,
        change: impl Fn(&mut Outcome) + Clone,
    ) {
        let stack = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(OutcomeLayer::new(self.telemetry.observer()))
            .service(service_fn(move |request: Request<Full<Bytes>>| {
                Record::update_in(request.extensions(), &change);
                let mut answer = Response::new(Full::new(Bytes::new()));
                *answer.status_mut() = status;
                std::future::ready(Ok::<_, Infallible>(answer))
            }));
        stack.oneshot(request).await.unwrap();
    }

    /// Exports the remaining data and returns the subscriber.
    pub(crate) async fn stop(self) {
        self.telemetry.shutdown(LIMIT).await;
    }
}

/// The server of the attempts.
pub(crate) fn upstream(provider: &'static str) -> Upstream {
    Upstream {
        name: "gpu-1".into(),
        provider,
        base: "http://10.0.0.7:11434/ollama".into(),
        address: "10.0.0.7".into(),
        port: 11434,
    }
}

/// A request's header that makes its model an alias of this one.
pub(crate) const SERVED: &str = "x-served";

/// Sets the data that the layers between the two spans find.
pub(crate) fn scanned(mut request: Request<Full<Bytes>>, attempts: u32) -> Request<Full<Bytes>> {
    let model: Arc<str> = "llama3.2".into();
    let llm = LlmRequest {
        dialect: Dialect::Ollama,
        operation: Operation::Chat,
        model: Some(model.clone()),
        stream: true,
        keep_alive: None,
        num_ctx: None,
        has_no_prompt: false,
        needs: Default::default(),
        body_bytes: 2,
        prompt_bytes: 2,
        prefix: Default::default(),
        places: Default::default(),
    };
    llm.put_into(request.extensions_mut());
    let served = request.headers().get(SERVED).cloned();
    let served = served.and_then(|model| Some(model.to_str().ok()?.into()));
    Record::update_in(request.extensions(), |outcome| {
        outcome.model = Some(model);
        outcome.served_model = served;
        outcome.stream = true;
        outcome.attempts = attempts;
        outcome.backend = Some("gpu-1".into());
    });
    request
}

pub(crate) fn chat() -> Request<Full<Bytes>> {
    let mut request = Request::post("/api/chat")
        .header("host", "gateway:3000")
        .header("x-request-id", "id-1")
        .header("traceparent", format!("00-{TRACE}-{CLIENTS_SPAN}-01"))
        .header("tracestate", "vendor=1")
        .body(Full::default())
        .unwrap();
    let client = ClientAddress([198, 51, 100, 7].into());
    client.put_into(request.extensions_mut());
    request
}

pub(crate) fn answer(status: StatusCode, frames: Vec<Result<&'static str, BoxError>>) -> Answer {
    let frames = frames.into_iter().map(|frame| {
        let frame = frame?;
        Ok(Frame::data(Bytes::from(frame)))
    });
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    Ok(Response::builder().status(status).body(body)?)
}

pub(crate) fn two_lines() -> Answer {
    answer(StatusCode::OK, vec![Ok("{}\n"), Ok("{\"done\":true}\n")])
}

#[derive(Debug)]
pub(crate) struct Died;

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

pub(crate) fn died() -> BoxError {
    Failure::from(Died).into()
}
