//! The layers around real clients, hyper-util's and reqwest's, before real sockets that fail.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy, State};
use llamatower_layers::classify::{Class, ClassifyLayer, classify};
use llamatower_layers::client::ReqwestService;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::forward::ForwardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{Decision, RetryBudget, RetryEvent, RetryLayer};
use llamatower_layers::{BoxError, EndpointTable, Failure, Observer, Outcome, OutcomeLayer, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

/// A body that can be sent again if its bytes are in memory, or a stream.
type Sent = ReplayBody<UnsyncBoxBody<Bytes, BoxError>>;
type Received = UnsyncBoxBody<Bytes, BoxError>;
type BoxClient = BoxCloneSyncService<Request<Sent>, Response<Received>, BoxError>;

fn boxed<C, R>(client: C) -> BoxClient
where
    C: Service<Request<Sent>, Response = Response<R>> + Clone + Send + Sync + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let client = client
        .map_response(|answer: Response<R>| {
            answer.map(|body| body.map_err(Into::into).boxed_unsync())
        })
        .map_err(Into::into);
    BoxCloneSyncService::new(client)
}

fn reqwest_client(timeout: Duration) -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(timeout);
    client.build().unwrap()
}

/// Both clients, the errors of which no layer has seen.
fn clients() -> [(&'static str, BoxClient); 2] {
    let hyper = Client::builder(TokioExecutor::new()).build_http();
    let reqwest = ReqwestService::new(reqwest_client(Duration::from_secs(60)));
    [("hyper-util", boxed(hyper)), ("reqwest", boxed(reqwest))]
}

/// What a server does with a connection after the head of the request.
#[derive(Clone, Copy, Debug)]
enum Step {
    Close,
    Hang,
    Send(&'static str),
}

const OK: Step = Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
const GARBAGE: Step = Step::Send("this is not HTTP\r\n\r\n");
const BROKEN: Step = Step::Send(
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n\
     8\r\n{\"a\":1}\n\r\n",
);

/// A server with these steps, one for each connection. The heads of the requests go to the list.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, steps)
    }

    fn on(listener: TcpListener, steps: impl IntoIterator<Item = Step>) -> Self {
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        let mut steps: VecDeque<_> = steps.into_iter().collect();
        tokio::spawn(async move {
            while let Some(step) = steps.pop_front() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = read_head(&mut stream).await;
                seen.lock().unwrap().push(head);
                match step {
                    Step::Close => {}
                    Step::Hang => {
                        tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
                    }
                    Step::Send(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                }
            }
        });
        Self { address, heads }
    }

    fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

/// Up to the end of the head, and of a short body.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    String::from_utf8(head).unwrap()
}

async fn refusing() -> SocketAddr {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    closed.local_addr().unwrap()
}

fn chat(server: SocketAddr) -> Request<Sent> {
    let request = Request::post(format!("http://{server}/api/chat?key=secret"));
    request.body(Sent::from(Bytes::from("{}"))).unwrap()
}

type Events = Arc<Mutex<Vec<RetryEvent>>>;

/// Retries each request up to twice.
fn retry() -> (RetryLayer, Events) {
    let events = Events::default();
    let kept = events.clone();
    let layer = RetryLayer::new(RetryBudget::default())
        .with_replayable(|_, _| true)
        .with_observer(move |event| kept.lock().unwrap().push(*event));
    (layer, events)
}

/// The error of a request, and the number of attempts.
async fn failing(client: BoxClient, request: Request<Sent>) -> (BoxError, usize) {
    let (layer, events) = retry();
    let error = layer.layer(client).oneshot(request).await.map(drop);
    let retries = events.lock().unwrap();
    let retries = retries.iter().filter(|event| event.is_retry()).count();
    (error.unwrap_err(), retries + 1)
}

#[track_caller]
fn kind(error: &BoxError) -> (&'static str, u16) {
    let failure = Failure::find(&**error).unwrap_or_else(|| panic!("{error:?} is not classified"));
    (failure.kind(), failure.status().as_u16())
}

#[tokio::test]
async fn a_refused_connection_is_retried_until_the_server_is_there() {
    for (name, client) in clients() {
        let address = refusing().await;
        let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
        let layer = RetryLayer::new(RetryBudget::default())
            .with_replayable(|_, _| true)
            .with_observer(move |event| {
                assert_eq!(event.reason, "connect_failed");
                let listener = std::net::TcpListener::bind(address).unwrap();
                listener.set_nonblocking(true).unwrap();
                let listener = TcpListener::from_std(listener).unwrap();
                sender.send(Server::on(listener, [OK])).ok().unwrap();
            });
        let answer = layer.layer(client).oneshot(chat(address)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        assert_eq!(started.recv().await.unwrap().requests(), 1, "{name}");
    }
}

/// Keeps the kinds of errors that reach the records of requests.
#[derive(Default)]
struct Kinds(Mutex<Vec<Option<&'static str>>>);

impl Observer for Kinds {
    fn finished(&self, outcome: &Outcome) {
        self.0.lock().unwrap().push(outcome.error);
    }
}

#[tokio::test]
async fn without_a_server_the_client_gets_a_502_in_its_dialect_that_shows_no_url() {
    for (name, client) in clients() {
        let (retry, events) = retry();
        let kinds = Arc::new(Kinds::default());
        let service = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(OutcomeLayer::new(kinds.clone()))
            .layer(RescueLayer::new())
            .layer(retry)
            .service(client);
        let answer = service.oneshot(chat(refusing().await)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{name}");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let expected = "{\"error\":\"cannot connect to the backend: Connection refused";
        assert!(text.starts_with(expected.as_bytes()), "{name}: {text:?}");
        assert_eq!(*kinds.0.lock().unwrap(), [Some("connect_failed")], "{name}");
        let decisions: Vec<_> = events.lock().unwrap().iter().map(|e| e.decision).collect();
        assert_eq!(decisions.len(), 3, "{name}");
        assert_eq!(decisions[2], Decision::AttemptsUsedUp, "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_a_head_is_retried() {
    for (name, client) in clients() {
        let server = Server::start([Step::Close, OK]).await;
        let (retry, events) = retry();
        let answer = retry.layer(client).oneshot(chat(server.address)).await;
        assert_eq!(answer.unwrap().status(), StatusCode::OK, "{name}");
        assert_eq!(server.requests(), 2, "{name}");
        assert_eq!(events.lock().unwrap()[0].reason, "connection_lost");
    }
}

#[tokio::test]
async fn a_time_out_is_a_504_after_a_single_retry() {
    let short = Duration::from_millis(100);
    let hyper = ServiceBuilder::new()
        .layer(ClassifyLayer::new(|error| {
            let is_timeout = error.is::<tower::timeout::error::Elapsed>();
            is_timeout.then_some(Class::TIMEOUT)
        }))
        .layer(tower::timeout::TimeoutLayer::new(short))
        .service(Client::builder(TokioExecutor::new()).build_http());
    let reqwest = ReqwestService::new(reqwest_client(short));
    for (name, client) in [("hyper-util", boxed(hyper)), ("reqwest", boxed(reqwest))] {
        let server = Server::start([Step::Hang, Step::Hang, OK]).await;
        let (error, attempts) = failing(client, chat(server.address)).await;
        assert_eq!(kind(&error), ("upstream_timeout", 504), "{name}");
        assert_eq!((attempts, server.requests()), (2, 2), "{name}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_response_that_is_not_http_is_a_502_and_not_retried() {
    for (name, client) in clients() {
        let server = Server::start([GARBAGE, OK]).await;
        let (error, attempts) = failing(client, chat(server.address)).await;
        assert_eq!(kind(&error), ("invalid_answer", 502), "{name}");
        assert_eq!(attempts, 1, "{name}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_request_that_a_client_refuses_to_send_is_not_retried() {
    for (name, client) in clients() {
        let no_host = Request::post("/api/chat").body(Sent::empty()).unwrap();
        let (error, attempts) = failing(client, no_host).await;
        assert_eq!(kind(&error), ("invalid_request", 500), "{name}");
        assert_eq!(attempts, 1, "{name}");
    }
}

#[tokio::test]
async fn a_request_body_that_fails_is_the_clients_fault_and_no_failure_for_the_breaker() {
    for (name, client) in clients() {
        let server = Server::start([Step::Hang; 10]).await;
        let breaker = Breaker::new(BreakerPolicy::default());
        let service = BreakerLayer::new(breaker.clone()).layer(client);
        for _ in 0..6 {
            let frames = [
                Ok(Frame::data(Bytes::from("{"))),
                Err(BoxError::from("the client is gone")),
            ];
            let frames = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
            // Without the mark that `ReplayBody` gives such an error.
            let request = chat(server.address).map(|_| frames);
            let request = request.map(Sent::streaming);
            let error = service
                .clone()
                .oneshot(request)
                .await
                .map(drop)
                .unwrap_err();
            assert_eq!(kind(&error), ("client_body_failed", 400), "{name}");
        }
        assert_eq!(breaker.state(), State::Closed, "{name}");
    }
}

#[tokio::test]
async fn an_unmarked_error_of_a_request_body_is_the_clients_fault_too() {
    let frames = [Err::<Frame<Bytes>, _>(std::io::Error::from(
        std::io::ErrorKind::ConnectionReset,
    ))];
    let failing = || {
        StreamBody::new(futures_util::stream::iter(
            frames
                .iter()
                .map(|frame| {
                    let error = frame.as_ref().err().unwrap();
                    Err::<Frame<Bytes>, _>(std::io::Error::from(error.kind()))
                })
                .collect::<Vec<_>>(),
        ))
    };
    let server = Server::start([Step::Hang; 2]).await;
    let url = format!("http://{}/", server.address);
    let hyper = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(&url).body(failing()).unwrap();
    let error = classify(hyper.request(request).await.unwrap_err());
    assert_eq!(kind(&error), ("client_body_failed", 400));
    let reqwest = ReqwestService::new(reqwest_client(Duration::from_secs(60)));
    let request = Request::post(&url).body(failing()).unwrap();
    let error = reqwest.oneshot(request).await.unwrap_err();
    assert_eq!(kind(&error), ("client_body_failed", 400));
}

#[tokio::test]
async fn refused_connections_open_the_breaker() {
    for (name, client) in clients() {
        let breaker = Breaker::new(BreakerPolicy::default());
        let service = BreakerLayer::new(breaker.clone()).layer(client);
        let address = refusing().await;
        for expected in ["connect_failed"; 5].into_iter().chain(["circuit_open"]) {
            let answer = service.clone().oneshot(chat(address)).await.map(drop);
            let error = answer.unwrap_err();
            assert_eq!(kind(&error).0, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_a_line_that_tells_why() {
    for (name, client) in clients() {
        let server = Server::start([BROKEN]).await;
        let service = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(RescueLayer::new().with_clean_ends())
            .service(client);
        let answer = service.oneshot(chat(server.address)).await.unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let expected = "{\"a\":1}\n{\"error\":\"the connection to the backend was lost: ";
        assert!(text.starts_with(expected.as_bytes()), "{name}: {text:?}");
        assert!(!text.windows(6).any(|part| part == b"secret"), "{text:?}");
    }
}

#[tokio::test]
async fn reqwest_gets_a_body_that_is_not_sync_with_its_length() {
    let server = Server::start([OK, OK]).await;
    let client = ServiceBuilder::new()
        .layer(ForwardLayer::new(format!("http://{}", server.address).parse().unwrap()).unwrap())
        .service(ReqwestService::new(reqwest_client(Duration::from_secs(60))));
    let post = Request::post("/a").body(axum::body::Body::from("four"));
    let answer = client.clone().oneshot(post.unwrap()).await.unwrap();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "ok");
    let get = Request::get("/b").body(Full::<Bytes>::default()).unwrap();
    client.oneshot(get).await.unwrap();
    let heads = server.heads.lock().unwrap();
    assert!(heads[0].starts_with("POST /a HTTP/1.1\r\n"), "{}", heads[0]);
    assert!(heads[0].contains("content-length: 4\r\n"), "{}", heads[0]);
    assert!(heads[0].contains(&format!("host: {}\r\n", server.address)));
    assert!(!heads[0].contains("transfer-encoding"), "{}", heads[0]);
    assert!(!heads[1].contains("content-length"), "{}", heads[1]);
    assert!(!heads[1].contains("transfer-encoding"), "{}", heads[1]);
}

#[tokio::test]
async fn an_error_for_a_status_that_the_caller_made_shows_no_url() {
    let server = Server::start([Step::Send("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")]).await;
    let url = format!("http://{}/?key=secret", server.address);
    let answer = reqwest_client(Duration::from_secs(60))
        .get(url)
        .send()
        .await;
    let error = answer.unwrap().error_for_status().unwrap_err();
    assert!(
        error.to_string().contains("secret"),
        "reqwest's own text does"
    );
    let error = classify(error);
    assert_eq!(
        error.to_string(),
        "the response of the backend cannot be read"
    );
    assert_eq!(Failure::find(&*error).unwrap().side(), Side::Upstream);
}

#[tokio::test]
async fn rescue_directly_around_a_client_answers_502_for_a_refused_connection() {
    for (name, client) in [
        (
            "hyper-util",
            boxed(Client::builder(TokioExecutor::new()).build_http()),
        ),
        (
            "io",
            boxed(service_fn(async |_: Request<Sent>| {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                Err::<Response<Sent>, _>(refused)
            })),
        ),
    ] {
        let service = RescueLayer::new().layer(client);
        let answer = service.oneshot(chat(refusing().await)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_is_not_accepted_in_time_is_a_504_and_retried_twice() {
    let connector = service_fn(|_: http::Uri| {
        let slow = std::io::Error::from(std::io::ErrorKind::TimedOut);
        std::future::ready(Err::<hyper_util::rt::TokioIo<TcpStream>, _>(slow))
    });
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let (error, attempts) = failing(boxed(client), chat(refusing().await)).await;
    assert_eq!(kind(&error), ("connect_timeout", 504));
    assert_eq!(attempts, 3);
}
