//! Mutated requests, parsed by an edge.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use llamatower::edge::{Edge, EdgeConfig, ListenAddr, RequestBody, Shutdown};
use llamatower_layers::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{advance, pause, timeout};
use tower::service_fn;

use crate::answers::read;
use crate::mutations::pieces;
use crate::requests::{Conversation, conversations};
use crate::{BATCH_LIMIT, first_of, for_batches, passes, runtime};

/// Several time-outs may run one after another: for a head, a silent body, the rest of a body, the
/// next request, and the bytes after the last answer.
const TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(12);

type Answered = Result<Response<UnsyncBoxBody<Bytes, BoxError>>, Infallible>;

/// Returns the id, method and target of the request.
async fn echo(request: Request<RequestBody>) -> Answered {
    let mut answer = Response::builder().header("x-method", request.method().as_str());
    for id in request.headers().get_all("x-id") {
        answer = answer.header("x-id", id);
    }
    let (method, target) = (request.method().clone(), request.uri().clone());
    let mut text = format!("{method} {target}\n").into_bytes();
    if target.path().starts_with("/stream") && method != Method::HEAD {
        let answer = answer.header("content-type", "application/x-ndjson");
        return Ok(answer.body(request.into_body().boxed_unsync()).unwrap());
    }
    if target.path().starts_with("/read") {
        match request.into_body().collect().await {
            Ok(body) => text.extend(body.to_bytes()),
            Err(_) => answer = answer.status(400),
        }
    }
    let body = Full::from(text).map_err(|never| match never {});
    Ok(answer.body(body.boxed_unsync()).unwrap())
}

fn config() -> EdgeConfig {
    EdgeConfig {
        listen: vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())],
        header_timeout: TIMEOUT,
        keep_alive_timeout: TIMEOUT,
        body_timeout: Some(TIMEOUT),
        write_stall_timeout: Some(TIMEOUT),
        max_head_bytes: 4096,
        max_head_fields: 12,
        ..EdgeConfig::default()
    }
}

/// Runs all conversations of a batch at the same time with one edge, and stops the edge.
async fn converse<F>(
    batch: &[Conversation],
    stack: impl Fn(Request<RequestBody>) -> F + Clone + Send + 'static,
) -> Result<(), String>
where
    F: Future<Output = Answered> + Send + 'static,
{
    let edge = Edge::bind(config()).await.unwrap();
    let (address, gauges) = (edge.local_addrs()[0].to_string(), edge.gauges());
    let (shutdown, calls) = (Shutdown::new(), Arc::new(AtomicU64::new(0)));
    let counted = calls.clone();
    let stack = service_fn(move |request| {
        counted.fetch_add(1, Relaxed);
        stack(request)
    });
    let serving = tokio::spawn(edge.serve(stack, shutdown.clone()));
    let waiting = Cell::new(0);
    let clients = batch.iter().enumerate();
    let clients = clients.map(|(place, client)| talk(&address, place, client, &waiting));
    let all = async {
        let results = join_all(clients).await;
        while gauges.connections() > 0 {
            passes(1).await;
        }
        shutdown.drain();
        let drained = serving.await.map_err(|error| error.to_string())?;
        let left = (
            drained.cut,
            gauges.in_flight(),
            gauges.refused_connections(),
        );
        // A client that leaves at once is counted, although the stack was not called.
        match left == (0, 0, 0) && gauges.finished() >= calls.load(Relaxed) {
            true => results.into_iter().collect(),
            false => Err(format!("after {calls:?} requests: {drained:?}, {gauges:?}")),
        }
    };
    tokio::select! {
        result = all => result,
        () = advance_clock(&waiting, batch.len()) => Err("something waits for ever".to_owned()),
    }
}

/// Advances the clock when all clients wait for the end of their connections. As long as a task
/// yields, the paused clock does not advance otherwise.
async fn advance_clock(waiting: &Cell<usize>, all: usize) {
    pause();
    let started = Instant::now();
    while started.elapsed() < BATCH_LIMIT {
        passes(4).await;
        if waiting.get() == all {
            advance(Duration::from_millis(100)).await;
        }
    }
}

async fn talk(
    address: &str,
    place: usize,
    conversation: &Conversation,
    waiting: &Cell<usize>,
) -> Result<(), String> {
    let fail = |error: &str, seen: &[u8]| {
        let seen = seen.escape_ascii();
        format!("{error}\nin conversation {place}: {conversation:?}\nthat got {seen}")
    };
    let (intact, changed) = conversation.bytes(place);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reads, mut writes) = stream.split();
    let bytes = [intact, changed].concat();
    let send = async {
        for piece in pieces(&bytes, &conversation.cuts) {
            // The edge may have closed. It reads a piece before the next one is sent.
            let _ = writes.write_all(piece).await;
            passes(2).await;
        }
    };
    let mut seen = Vec::new();
    let receive = async {
        let mut is_open = true;
        while is_open && read(&seen, false)?.len() < conversation.intact.len() {
            is_open = reads.read_buf(&mut seen).await.is_ok_and(|read| read > 0);
        }
        Ok::<_, String>(())
    };
    let ((), received) = tokio::join!(send, receive);
    waiting.set(waiting.get() + 1);
    received.map_err(|error| fail(&error, &seen))?;
    // A client that closes its side counts as disconnected, so the valid requests must have their
    // answers before.
    if conversation.closes {
        let _ = writes.shutdown().await;
    }
    // A reset connection has ended too.
    let to_end = timeout(LONGEST, reads.read_to_end(&mut seen)).await;
    let _ = to_end.map_err(|_| fail("no time-out ends the connection", &[]))?;
    let checked = conversation.check(place, &seen);
    checked.map_err(|error| fail(&error, &seen))
}

#[test]
fn mutated_requests_get_their_own_answers() {
    let talk = |batch: &[Conversation]| runtime().block_on(converse(batch, echo));
    for_batches(file!(), conversations(), talk, &["answered", "refused"]);
}

#[test]
fn an_answer_to_the_wrong_request_is_detected() {
    let before = Arc::new(Mutex::new(HeaderValue::from_static("none")));
    // Each request gets the answer of the request before.
    let stack = move |mut request: Request<RequestBody>| {
        if let Some(id) = request.headers_mut().get_mut("x-id") {
            std::mem::swap(id, &mut before.lock().unwrap());
        }
        echo(request)
    };
    let result = runtime().block_on(converse(&first_of(conversations()), stack));
    let error = result.unwrap_err();
    assert!(error.contains("was answered"), "{error}");
}
