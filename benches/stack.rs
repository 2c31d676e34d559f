//! The cost of the stack for a request and a chunk, with every default layer and without sockets.

use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::tz::TimeZone;
use llamatower::live::LiveSettings;
use llamatower::ollama::fleet::{Fleet, FleetConfig, ProbeClocks};
use llamatower::settings::{Environment, Settings};
use llamatower::stack::{self, Attempt, Handles};
use llamatower::state::ChangeSignal;
use llamatower::telemetry::{Telemetry, TelemetryConfig};
use llamatower::usage::Usage;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::{BoxError, EndpointTable};
use llamatower_sim::{ModelSpec, Sim, SimHandle};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt, service_fn};

const BODY: &str = r#"{"model":"tiny","messages":[{"role":"user","content":"Why a tower?"}]}"#;
const LINE: &str = "{\"model\":\"tiny\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\" tower\"},\"done\":false}\n";
const LAST: &str = "{\"model\":\"tiny\",\"done\":true}\n";

/// A backend that only answers, with this many lines.
fn answering(lines: usize) -> Attempt<Full<Bytes>> {
    let answering = service_fn(move |_| async move {
        let lines = std::iter::repeat_n(LINE, lines).chain([LAST]);
        let frame = |line: &'static str| Frame::data(Bytes::from_static(line.as_bytes()));
        let frames = lines.map(move |line| Ok::<_, BoxError>(frame(line)));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let answer = Response::builder().header("content-type", "application/x-ndjson");
        Ok::<_, BoxError>(answer.body(body)?)
    });
    llamatower::ollama::attempt(answering, |_| {})
}

type TestFleet = Arc<Fleet<Attempt<Full<Bytes>>>>;

/// Backends with the model lists of a simulated server, whose answers cost nothing.
async fn fleet(sim: &SimHandle, backends: u8, lines: usize) -> TestFleet {
    let port = sim.addr().port();
    let hosts = (1..=backends).map(|host| {
        let address = format!("127.0.0.{host}:{port}").parse();
        address.expect("an address of this machine")
    });
    let config = FleetConfig {
        clocks: ProbeClocks {
            interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(2),
            ..ProbeClocks::default()
        },
        ..FleetConfig::default()
    };
    let fleet = Arc::new(Fleet::new(hosts.collect(), config, move |_, _| {
        answering(lines)
    }));
    tokio::spawn(fleet.clone().supervise(CancellationToken::new()));
    fleet
}

async fn ask<S, B>(service: S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = std::convert::Infallible>,
    B: http_body::Body<Data = Bytes>,
{
    let request = Request::post("/api/chat").body(Full::from(BODY));
    let Ok(answer) = service.oneshot(request.expect("a valid request")).await;
    let mut body = pin!(answer.into_body());
    while let Some(Ok(frame)) = body.frame().await {
        black_box(frame);
    }
}

fn passes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let loaded = Settings::load(None, &Environment::default()).expect("the defaults are sound");
    let config = TelemetryConfig {
        log_filter: "off".to_owned(),
        ..TelemetryConfig::default()
    };
    let (telemetry, _) = Telemetry::prepare(&config, &|_| None, std::io::sink).expect("sound");
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let few = Sim::builder()
        .listen(everywhere)
        .model(ModelSpec::new("tiny"));
    let names = (0..1000).map(|model| format!("model-{model}"));
    let many = Sim::builder()
        .listen(everywhere)
        .model(ModelSpec::new("tiny"));
    let many = names.fold(many, |sim, name| sim.model(ModelSpec::new(name)));
    let few = runtime.block_on(few.start()).expect("a free port");
    let many = runtime.block_on(many.start()).expect("a free port");
    let mut group = criterion.benchmark_group("stack");
    for (name, sim, backends, lines) in [
        ("request", &few, 2, 0),
        ("request among 100 backends with 1000 models", &many, 100, 0),
        ("1000 lines", &few, 2, 1000),
    ] {
        let service = runtime.block_on(async {
            let fleet = fleet(sim, backends, lines).await;
            let handles = Handles {
                cutoff: CancellationToken::new(),
                body_memory: MemoryBudget::new(1 << 30),
                activity: Default::default(),
                usage: Arc::new(Usage::new(TimeZone::UTC, ChangeSignal::default())),
                cloud: None,
                redis: None,
            };
            let endpoints = EndpointTable::ollama();
            let live = LiveSettings::new(&loaded.settings).expect("no keys");
            stack::service(
                &loaded.settings,
                endpoints,
                &live,
                fleet,
                &telemetry,
                handles,
            )
        });
        runtime.block_on(ask(service.clone()));
        group.throughput(Throughput::Elements(lines.max(1) as u64));
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| ask(service.clone()));
        });
    }
    group.finish();
}

criterion_group!(benches, passes);
criterion_main!(benches);
