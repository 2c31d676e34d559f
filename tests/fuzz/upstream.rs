//! Mutated answers, parsed by the client for plain HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use llamatower::ollama::upstream::{AnswerBroken, ConnectionLost, InvalidAnswer, Upstream};
use llamatower_layers::{BoxError, Failure};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::answers::find;
use crate::messages::{Body, Framing, bodies};
use crate::mutations::{Mutation, cuts, mutate, mutations, pieces};
use crate::{BATCH_LIMIT, count, first_of, for_batches, id, passes, runtime};

/// The number of passes of all other tasks after which a server assumes that its client waits for
/// more.
const PASSES: usize = 40;

/// An answer without a request.
const UNREQUESTED_ANSWER: &str = "HTTP/1.1 200 OK\r\nx-id: stray\r\ncontent-length: 5\r\n\r\nstray";

/// A request, and the server's answer, mutated or not.
#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    status: u16,
    kind: &'static str,
    hints: usize,
    body: Body,
    mutations: Vec<Mutation>,
    cuts: Vec<Index>,
    closes: bool,
}

impl Exchange {
    fn bytes(&self, id: &str) -> Vec<u8> {
        let body = self.body.behind(id);
        let (status, kind, field) = (self.status, self.kind, body.field());
        let close = ["", "connection: close\r\n"][usize::from(self.closes)];
        let mut bytes = "HTTP/1.1 103 Hints\r\nlink: </x>\r\n\r\n".repeat(self.hints);
        bytes += &format!("HTTP/1.1 {status} Any\r\nx-id: {id}\r\ncontent-type: {kind}\r\n");
        bytes += &format!("{close}{field}\r\n");
        let mut bytes = bytes.into_bytes();
        if self.method != "HEAD" {
            bytes.extend(body.framed());
        }
        mutate(bytes, &self.mutations)
    }

    /// The answer that a client receives without mutations.
    fn seen(&self, id: &str) -> Seen {
        let body = match self.method {
            "HEAD" => Bytes::new(),
            _ => self.body.behind(id).content().into(),
        };
        Seen::Whole(self.status, id.to_owned(), body)
    }
}

fn exchanges() -> impl Strategy<Value = Exchange> {
    let statuses = select(&[200, 200, 404, 503]);
    let kinds = ["application/x-ndjson", "text/event-stream", "text/plain"];
    let changes = prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec![Mutation::Append(UNREQUESTED_ANSWER)]),
        4 => mutations(),
    ];
    let head = (select(&["GET", "HEAD", "POST"]), statuses, 0..2_usize);
    let wire = (changes, cuts(), prop::bool::weighted(0.2));
    let parts = (
        head,
        select(kinds.to_vec()),
        bodies(UNREQUESTED_ANSWER),
        wire,
    );
    parts.prop_map(|(head, kind, body, (mutations, cuts, closes))| Exchange {
        method: head.0,
        status: head.1,
        kind,
        hints: head.2,
        closes: closes || body.framing == Framing::Unframed,
        body,
        mutations,
        cuts,
    })
}

/// The answer that a client received.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Refused,
    Broken,
    /// Status, id and body.
    Whole(u16, String, Bytes),
}

impl Seen {
    /// Fails unless this is an answer to the request that was sent.
    fn check(&self, place: usize, at: usize, exchange: &Exchange) -> Result<(), String> {
        let is_right = match self {
            _ if exchange.mutations.is_empty() => *self == exchange.seen(&id(place, at)),
            Self::Refused | Self::Broken => true,
            Self::Whole(status, given, body) => {
                let others = (0..at).map(|at| id(place, at));
                let mut others =
                    others.filter(|other| find(body, other.as_bytes()).is_some() || given == other);
                *status >= 200 && others.next().is_none()
            }
        };
        count(match self {
            _ if exchange.mutations.is_empty() => "intact",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Whole(..) => "whole",
        });
        let wrong = || format!("request {at} ({}) got {self:?}", id(place, at));
        is_right.then_some(()).ok_or_else(wrong)
    }
}

/// The bytes that a server sends for the request with an id.
struct Reply {
    bytes: Vec<u8>,
    cuts: Vec<Index>,
    closes: bool,
    is_sent: AtomicBool,
}

type Replies = HashMap<String, Reply>;

/// Serves one connection. After an answer the client sends the next request; if it waits for more,
/// the server closes the connection.
async fn serve(mut stream: TcpStream, replies: Arc<Replies>) {
    stream.set_nodelay(true).unwrap();
    let mut asked = next_request(&mut stream).await;
    while let Some(reply) = asked.and_then(|id| replies.get(&id)) {
        for piece in pieces(&reply.bytes, &reply.cuts) {
            // The client may have closed. It reads a piece before the next one is sent.
            let _ = stream.write_all(piece).await;
            passes(2).await;
        }
        if reply.closes {
            drop(stream);
            return reply.is_sent.store(true, Relaxed);
        }
        reply.is_sent.store(true, Relaxed);
        asked = tokio::select! {
            asked = next_request(&mut stream) => asked,
            () = passes(PASSES) => None,
        };
    }
}

/// The id of the next request on a connection, if there is one.
async fn next_request(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    let end_of = |seen: &[u8]| ["\r\n\r\n", "\r\n\r\n{}"][usize::from(seen.starts_with(b"POST"))];
    while !seen.ends_with(end_of(&seen).as_bytes()) {
        let read = stream.read_buf(&mut seen).await;
        read.ok().filter(|read| *read > 0)?;
    }
    let head = String::from_utf8(seen).unwrap();
    let id = head.lines().find_map(|line| line.strip_prefix("x-id: "));
    id.map(str::to_owned)
}

/// Sends a request and reads its answer.
async fn ask(upstream: &Upstream<Full<Bytes>>, method: &str, id: &str) -> Result<Seen, String> {
    let body = if method == "POST" { "{}" } else { "" };
    let request = Request::builder().method(method).uri("/api/chat");
    let request = request.header("x-id", id).body(Full::from(body)).unwrap();
    let (head, body) = match upstream.clone().oneshot(request).await {
        Ok(answer) => answer.into_parts(),
        Err(error) => {
            let failure = failure(error)?;
            let is_lost = failure.caused_by::<ConnectionLost>().is_some();
            let is_known = is_lost || failure.caused_by::<InvalidAnswer>().is_some();
            return is_known.then_some(Seen::Refused).ok_or(failure.to_string());
        }
    };
    match body.collect().await {
        Ok(body) => {
            let ids = head.headers.get_all("x-id").iter();
            let ids = ids
                .map(|id| String::from_utf8_lossy(id.as_bytes()))
                .collect();
            Ok(Seen::Whole(head.status.as_u16(), ids, body.to_bytes()))
        }
        Err(error) => {
            let failure = failure(error)?;
            let is_known = failure.caused_by::<AnswerBroken>().is_some();
            is_known.then_some(Seen::Broken).ok_or(failure.to_string())
        }
    }
}

fn failure(error: BoxError) -> Result<Box<Failure>, String> {
    let failure = error.downcast::<Failure>();
    failure.map_err(|error| format!("an error that is not a Failure: {error}"))
}

/// Runs all conversations of a batch at the same time, each through its own pool. The server
/// answers with the id of the request that `answered_id` returns.
fn converse(batch: &[Vec<Exchange>], answered_id: impl Fn(usize) -> usize) -> Result<(), String> {
    let mut replies = Replies::new();
    for (place, exchanges) in batch.iter().enumerate() {
        for (at, exchange) in exchanges.iter().enumerate() {
            let reply = Reply {
                bytes: exchange.bytes(&id(place, answered_id(at))),
                cuts: exchange.cuts.clone(),
                closes: exchange.closes,
                is_sent: AtomicBool::new(false),
            };
            replies.insert(id(place, at), reply);
        }
    }
    let replies = Arc::new(replies);
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = replies.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, serving.clone()));
            }
        });
        let clients = batch.iter().enumerate();
        let clients = clients.map(|(place, client)| talk(&address, place, client, &replies));
        let results = timeout(BATCH_LIMIT, join_all(clients)).await;
        let results = results.map_err(|_| "a client waits for ever")?;
        results.into_iter().collect()
    })
}

/// Sends one request after another through a pool.
async fn talk(
    address: &str,
    place: usize,
    exchanges: &[Exchange],
    replies: &Replies,
) -> Result<(), String> {
    let upstream = Upstream::new(address.parse().unwrap());
    for (at, exchange) in exchanges.iter().enumerate() {
        let id = id(place, at);
        let fail = |error: String| format!("{error}\nin {place}: {exchanges:?}");
        let seen = ask(&upstream, exchange.method, &id).await.map_err(fail)?;
        seen.check(place, at, exchange).map_err(fail)?;
        // Bytes that are left over and arrive after the next request cannot be distinguished from
        // its answer. Bytes that arrive before the next request must be detected.
        let sent = async {
            while !replies[&id].is_sent.load(Relaxed) {
                passes(1).await;
            }
        };
        tokio::select! {
            () = sent => {}
            () = passes(100 * PASSES) => return Err(fail("the server got no request".to_owned())),
        }
        passes(4).await;
    }
    Ok(())
}

#[test]
fn after_mutated_answers_each_request_gets_its_own() {
    let common = ["intact", "whole", "broken", "refused"];
    let conversations = vec(exchanges(), 1..5);
    for_batches(
        file!(),
        conversations,
        |batch| converse(batch, |at| at),
        &common,
    );
}

#[test]
fn an_answer_to_the_wrong_request_is_detected() {
    let batch = first_of(vec(exchanges(), 2..5));
    let error = converse(&batch, |at| at ^ 1).unwrap_err();
    assert!(error.starts_with("request"), "{error}");
}
