//! The whole stack with one request, without sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use jiff::tz::TimeZone;
use llamatower::live::LiveSettings;
use llamatower::ollama::fleet::{Backend, Fleet, FleetConfig};
use llamatower::ollama::upstream::Access;
use llamatower::settings::{Environment, Settings};
use llamatower::stack::{self, Handles};
use llamatower::state::ChangeSignal;
use llamatower::telemetry::{Telemetry, TelemetryConfig};
use llamatower::usage::Usage;
use llamatower_layers::body::{MemoryBudget, ReplayBody};
use llamatower_layers::breaker::{Breaker, BreakerPolicy};
use llamatower_layers::{BoxError, EndpointTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

const ID: &str = "x-request-id";
const SECRETS: [(&str, &str); 5] = [
    ("authorization", "Bearer open-sesame"),
    ("x-api-key", "open-sesame"),
    ("proxy-authorization", "Basic open-sesame"),
    ("cookie", "session=open-sesame"),
    ("cookie", "again=open-sesame"),
];

/// The request that the backend received, its `Debug` output, and the head of the client's answer.
struct Seen {
    request: HeaderMap,
    debug: String,
    answer: HeaderMap,
}

/// Sends a request with these headers to a backend that answers with the others.
async fn send(request: &[(&str, &str)], answer: &'static [(&str, &str)]) -> Seen {
    let seen = Arc::new(Mutex::new((HeaderMap::new(), String::new())));
    let seen_by_backend = seen.clone();
    let backend = service_fn(move |request: Request<_>| {
        let (head, _) = request.into_parts();
        let debug = format!("{head:?}");
        *seen_by_backend.lock().expect("no panic") = (head.headers, debug);
        let answer = answer
            .iter()
            .fold(Response::builder(), |answer, (name, value)| {
                answer.header(*name, *value)
            });
        let body = Empty::<Bytes>::new().map_err(|never| match never {});
        std::future::ready(answer.body(body).map_err(BoxError::from))
    });
    let hosts = vec!["127.0.0.1:1".parse().expect("an address")];
    let fleet = Fleet::new(hosts, FleetConfig::default(), move |_, _| {
        llamatower::ollama::attempt(backend.clone(), |_| {})
    });
    let settings = Settings::load(None, &Environment::default()).expect("the defaults are sound");
    let telemetry = Telemetry::prepare(&TelemetryConfig::default(), &|_| None, std::io::sink);
    let service = stack::service(
        &settings.settings,
        EndpointTable::ollama(),
        &LiveSettings::new(&settings.settings).expect("no keys"),
        Arc::new(fleet),
        &telemetry.expect("the defaults are sound").0,
        Handles {
            cutoff: CancellationToken::new(),
            body_memory: MemoryBudget::new(1 << 20),
            activity: Default::default(),
            usage: Arc::new(Usage::new(TimeZone::UTC, ChangeSignal::default())),
            cloud: None,
            redis: None,
        },
    );
    let request = request
        .iter()
        .fold(Request::post("/api/chat"), |request, (name, value)| {
            request.header(*name, *value)
        });
    let request = request.body(Full::from("{}")).expect("a valid request");
    let Ok(answer) = service.oneshot(request).await;
    let (request, debug) = seen.lock().expect("no panic").clone();
    Seen {
        request,
        debug,
        answer: answer.headers().clone(),
    }
}

#[tokio::test]
async fn a_client_keeps_its_request_id_and_others_get_one() {
    let seen = send(&[(ID, "from-the-client")], &[]).await;
    assert_eq!(seen.request[ID], "from-the-client");
    assert_eq!(seen.answer[ID], "from-the-client");

    let (one, other) = (send(&[], &[]).await, send(&[], &[]).await);
    assert_eq!(one.request[ID], one.answer[ID]);
    assert_eq!(one.answer[ID].len(), 36);
    assert_ne!(one.answer[ID], other.answer[ID]);
}

#[tokio::test]
async fn a_request_id_that_is_too_long_or_no_visible_text_is_replaced() {
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    let seen = send(&[(ID, &longest)], &[]).await;
    assert_eq!(seen.request[ID], longest);
    assert_eq!(seen.answer[ID], longest);

    for unusable in [&*too_long, "", "two words"] {
        let seen = send(&[(ID, unusable)], &[]).await;
        assert_eq!(seen.request.get_all(ID).iter().count(), 1);
        assert_eq!(seen.request[ID], seen.answer[ID]);
        assert_eq!(seen.answer[ID].len(), 36, "{unusable}");
    }
}

#[tokio::test]
async fn the_request_id_of_a_backend_is_used() {
    let seen = send(&[(ID, "from-the-client")], &[(ID, "from-the-backend")]).await;
    assert_eq!(seen.answer.get_all(ID).iter().count(), 1);
    assert_eq!(seen.answer[ID], "from-the-backend");
}

#[tokio::test]
async fn credentials_of_a_client_are_not_shown_by_debug() {
    let seen = send(&SECRETS, &[]).await;
    assert_eq!(seen.request.get_all("cookie").iter().count(), 2);
    assert!(!seen.debug.contains("open-sesame"), "{}", seen.debug);
}

#[tokio::test]
async fn a_cookie_that_a_backend_sets_is_not_shown_by_debug() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let answering = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let answer = "HTTP/1.1 204 No Content\r\nset-cookie: a=open-sesame\r\n\r\n";
        let written = socket.write_all(answer.as_bytes()).await;
        written.expect("the gateway reads");
        socket
    };
    let settings = Settings::load(None, &Environment::default()).expect("the defaults are sound");
    let telemetry = Telemetry::prepare(&TelemetryConfig::default(), &|_| None, std::io::sink);
    let (telemetry, _) = telemetry.expect("the defaults are sound");
    let backend = Backend::new(
        address.parse().expect("an address"),
        Duration::from_secs(10),
        &Access::default(),
    );
    let attempt = stack::attempt::<Full<Bytes>>(
        &settings.settings,
        &Access::default(),
        &Arc::new(backend),
        &Breaker::new(BreakerPolicy::default()),
        &telemetry.of_attempts(),
    );
    let request = Request::get("/api/version").body(ReplayBody::empty());
    let asked = attempt.oneshot(request.expect("a valid request"));
    let (answer, _socket) = tokio::join!(asked, answering);
    let answer = answer.expect("an answer");
    assert_eq!(answer.headers()["set-cookie"], "a=open-sesame");
    let debug = format!("{:?}", answer.headers());
    assert!(!debug.contains("open-sesame"), "{debug}");
}

#[tokio::test]
async fn a_probe_closes_connections_that_were_idle_too_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let settings = Settings::load(
        None,
        &Environment::from_iter([("LLAMATOWER_POOL_IDLE_TIMEOUT", "1ns")]),
    );
    let telemetry = Telemetry::prepare(&TelemetryConfig::default(), &|_| None, std::io::sink);
    let (telemetry, _) = telemetry.expect("the defaults are sound");
    let address = address.parse().expect("an address");
    let backend = Arc::new(Backend::new(
        address,
        Duration::from_secs(10),
        &Access::default(),
    ));
    let attempt = stack::attempt::<Full<Bytes>>(
        &settings.expect("valid").settings,
        &Access::default(),
        &backend,
        &Breaker::new(BreakerPolicy::default()),
        &telemetry.of_attempts(),
    );
    let answering = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let written = socket.write_all(answer.as_bytes()).await;
        written.expect("the gateway reads");
        socket
    };
    let request = Request::get("/api/version").body(ReplayBody::empty());
    let asked = attempt.clone().oneshot(request.expect("a valid request"));
    let (answer, mut socket) = tokio::join!(asked, answering);
    let body = answer.expect("an answer").into_body();
    body.collect().await.expect("a whole body");
    drop(listener);
    backend
        .probe(Duration::from_secs(1))
        .await
        .expect_err("no server");
    let mut seen = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut seen));
    read.await.expect("it is closed").expect("in order");
    drop(attempt);
}
