//! The requests of clients, and the answers that they may get.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::answers::{Answer, find, read};
use crate::messages::{Body, Framing, bodies};
use crate::mutations::{Mutation, cuts, mutate, mutations};
use crate::{count, id};

const DECOY: &str = "\r\n\r\nGET /read/decoy HTTP/1.1\r\nhost: localhost\r\nx-id: decoy\r\n\r\n";
/// The possible statuses of the edge and the stack.
const STATUSES: &[u16] = &[200, 204, 400, 403, 404, 405, 408, 414, 417, 431, 501];

#[derive(Clone, Debug)]
pub(crate) struct SentRequest {
    method: &'static str,
    /// How the stack handles it: it reads the body and answers, or answers early without reading,
    /// or streams the body back.
    handling: &'static str,
    is_http_10: bool,
    expects: bool,
    body: Body,
}

impl SentRequest {
    fn target(&self) -> String {
        format!("/{}/x?y=%20", self.handling)
    }

    fn bytes(&self, id: &str) -> Vec<u8> {
        let (version, keep) = match self.is_http_10 {
            true => ("1.0", "connection: keep-alive\r\n"),
            false => ("1.1", ""),
        };
        let expect = ["", "expect: 100-continue\r\n"][usize::from(self.expects)];
        let (method, target, field) = (self.method, self.target(), self.body.field());
        let mut head = format!("{method} {target} HTTP/{version}\r\nHost: localhost\r\n");
        head += &format!("x-id: {id}\r\n{keep}{field}{expect}\r\n");
        [head.into_bytes(), self.body.framed()].concat()
    }

    /// Fails if this is not the answer to this request.
    fn check(&self, id: &str, answer: &Answer) -> Result<(), String> {
        let mut body = format!("{} {}\n", self.method, self.target()).into_bytes();
        match self.handling {
            _ if self.method == "HEAD" => body.clear(),
            "read" => body.extend(self.body.content()),
            "stream" => body = self.body.content(),
            _ => {}
        }
        let is_own = answer.has("x-id", id) && answer.all("x-id").count() == 1;
        match is_own && answer.status == 200 && answer.body == body && answer.is_whole {
            true => Ok(()),
            false => Err(format!("{self:?} ({id}) was answered {answer:?}")),
        }
    }
}

/// Requests that can follow each other on a connection.
fn sent_requests() -> impl Strategy<Value = SentRequest> {
    let handlings = select(&["read", "early", "stream"]);
    let methods = select(&["GET", "HEAD", "POST", "DELETE"]);
    let oddities = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (methods, handlings, oddities, bodies(DECOY)).prop_map(
        |(method, handling, (is_http_10, expects), body)| {
            let has_body = method != "HEAD" && body.framing != Framing::Unframed;
            let is_chunked = has_body && body.framing != Framing::Length;
            // HTTP/1.0 has no chunks, and an answer without a length ends the connection there.
            let is_http_10 = is_http_10 && !is_chunked && handling != "stream";
            SentRequest {
                method,
                handling,
                is_http_10,
                // A body that is not read ends the connection.
                expects: expects && has_body && !is_http_10 && handling != "early",
                body: if has_body { body } else { Body::none() },
            }
        },
    )
}

/// The bytes of one client: valid requests, then mutated ones.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) intact: Vec<SentRequest>,
    changed: Vec<SentRequest>,
    mutations: Vec<Mutation>,
    pub(crate) cuts: Vec<Index>,
    /// Whether the client closes its side. Otherwise a time-out ends the connection.
    pub(crate) closes: bool,
}

pub(crate) fn conversations() -> impl Strategy<Value = Conversation> {
    let requests = (vec(sent_requests(), 0..3), vec(sent_requests(), 1..4));
    let parts = (requests, mutations(), cuts(), any::<bool>());
    parts.prop_map(
        |((intact, changed), mutations, cuts, closes)| Conversation {
            intact,
            changed,
            mutations,
            cuts,
            closes,
        },
    )
}

impl Conversation {
    /// The valid bytes, and the mutated bytes.
    pub(crate) fn bytes(&self, place: usize) -> (Vec<u8>, Vec<u8>) {
        let numbered = self.intact.iter().chain(&self.changed).enumerate();
        let requests = numbered.map(|(at, request)| request.bytes(&id(place, at)));
        let mut requests: Vec<_> = requests.collect();
        let changed = requests.split_off(self.intact.len()).concat();
        (requests.concat(), mutate(changed, &self.mutations))
    }

    /// Fails if an answer is invalid, missing, or belongs to another request.
    pub(crate) fn check(&self, place: usize, seen: &[u8]) -> Result<(), String> {
        let answers = read(seen, true)?;
        for (at, request) in self.intact.iter().enumerate() {
            let answer = answers.get(at).ok_or("an intact request has no answer")?;
            request.check(&id(place, at), answer)?;
        }
        let sent = self.bytes(place).1;
        let mut sent = &*sent;
        for answer in &answers[self.intact.len()..] {
            for id in answer.all("x-id") {
                let at = find(sent, id).ok_or_else(|| format!("no such request: {answer:?}"))?;
                sent = &sent[at + id.len()..];
            }
            count(match (answer.status.as_u16(), answer.is_whole) {
                (status, _) if !STATUSES.contains(&status) => {
                    return Err(format!("unexpected answer: {answer:?}"));
                }
                (_, false) => "cut",
                (400.., true) => "refused",
                _ => "answered",
            });
        }
        count("connections");
        let last = answers
            .iter()
            .position(|answer| answer.has("connection", "close"));
        match last.is_none_or(|last| last + 1 == answers.len()) {
            true => Ok(()),
            false => Err(format!("more answers follow the last one: {answers:?}")),
        }
    }
}
