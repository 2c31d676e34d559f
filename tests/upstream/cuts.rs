//! What a client receives does not depend on how the response's bytes are split.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use llamatower::ollama::upstream::{AnswerBroken, ConnectionLost, InvalidAnswer, Upstream};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::{Leaf, Server, ask, cause_of, pair};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    ChunkedWithTrailers,
    UntilClose,
}

/// A server's response.
#[derive(Clone, Debug)]
struct Script {
    hints: usize,
    status: u16,
    content_type: &'static str,
    framing: Framing,
    pieces: Vec<Vec<u8>>,
    /// The index at which it breaks, if it does.
    broken_at: Option<Index>,
}

/// What a client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    NoAnswer,
    Answer {
        status: u16,
        body: Vec<u8>,
        is_whole: bool,
    },
}

impl Script {
    fn head(&self) -> String {
        let mut head = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(self.hints);
        let (status, kind) = (self.status, self.content_type);
        head += &format!("HTTP/1.1 {status} Whatever\r\ncontent-type: {kind}\r\n");
        head += &match self.framing {
            Framing::Length => format!("content-length: {}\r\n", self.pieces.concat().len()),
            Framing::Chunked | Framing::ChunkedWithTrailers => {
                "transfer-encoding: chunked\r\n".to_owned()
            }
            Framing::UntilClose => String::new(),
        };
        head + "\r\n"
    }

    /// The bytes, and for each whether it belongs to the body.
    fn bytes(&self) -> Vec<(u8, bool)> {
        let mut bytes = Vec::new();
        let mut put = |part: &[u8], is_body| bytes.extend(part.iter().map(|byte| (*byte, is_body)));
        put(self.head().as_bytes(), false);
        let is_chunked = matches!(
            self.framing,
            Framing::Chunked | Framing::ChunkedWithTrailers
        );
        for piece in self.pieces.iter().filter(|piece| !piece.is_empty()) {
            if is_chunked {
                put(format!("{:x}\r\n", piece.len()).as_bytes(), false);
            }
            put(piece, true);
            if is_chunked {
                put(b"\r\n", false);
            }
        }
        match self.framing {
            Framing::Chunked => put(b"0\r\n\r\n", false),
            Framing::ChunkedWithTrailers => put(b"0\r\nx-sum: 7\r\n\r\n", false),
            Framing::Length | Framing::UntilClose => {}
        }
        bytes
    }

    /// The number of bytes that are sent.
    fn sent(&self) -> usize {
        let length = self.bytes().len();
        self.broken_at.map_or(length, |at| at.index(length))
    }

    fn seen_over(&self, leaf: Leaf) -> Seen {
        let (bytes, sent) = (self.bytes(), self.sent());
        if sent < self.head().len() {
            return Seen::NoAnswer;
        }
        let body = bytes[..sent].iter().filter(|(_, is_body)| *is_body);
        // Unlike TLS, plain HTTP does not distinguish a clean end of a server from a crash.
        let is_whole = match self.framing {
            Framing::UntilClose => {
                sent == bytes.len() && self.broken_at.is_none() || leaf == Leaf::Plain
            }
            _ => sent == bytes.len(),
        };
        Seen::Answer {
            status: self.status,
            body: body.map(|(byte, _)| *byte).collect(),
            is_whole,
        }
    }
}

fn scripts() -> impl Strategy<Value = Script> {
    let framings = [
        Framing::Length,
        Framing::Chunked,
        Framing::ChunkedWithTrailers,
        Framing::UntilClose,
    ];
    let kinds = [
        "application/x-ndjson",
        "text/event-stream",
        "application/json",
    ];
    let piece = prop_oneof![
        "[a-z\r\n0]{0,12}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..200),
    ];
    let parts = (
        0..3_usize,
        select(vec![200, 404, 503]),
        select(kinds.to_vec()),
        select(framings.to_vec()),
        vec(piece, 0..6),
        proptest::option::weighted(0.4, any::<Index>()),
    );
    parts.prop_map(
        |(hints, status, content_type, framing, pieces, broken_at)| Script {
            hints,
            status,
            content_type,
            framing,
            pieces,
            broken_at,
        },
    )
}

/// Sends a script in pieces; the client reads each before the next is sent.
async fn serve(server: Server, script: Script, cuts: Vec<Index>) {
    let sent = script.sent();
    let bytes: Vec<u8> = script.bytes()[..sent]
        .iter()
        .map(|(byte, _)| *byte)
        .collect();
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(sent + 1)).collect();
    cuts.extend([0, sent]);
    cuts.sort_unstable();
    let mut peer = server.accept().await;
    peer.read_to("\r\n\r\n{}").await;
    for ends in cuts.windows(2) {
        peer.try_send(&bytes[ends[0]..ends[1]]).await;
        // A task that yields continues after the sockets were polled and all other tasks have run.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
    match (script.broken_at, script.framing) {
        (Some(_), _) => {}
        (None, Framing::UntilClose) => peer.close().await,
        // The end of the response is known without the end of the connection.
        (None, _) => {
            peer.is_closed().await;
        }
    }
}

async fn look(upstream: &Upstream<Full<Bytes>>) -> Seen {
    let answer = match ask(upstream).await {
        Ok(answer) => answer,
        Err(error) => {
            let failure = cause_of(error);
            let lost = failure.caused_by::<ConnectionLost>().is_some();
            assert!(
                lost || failure.caused_by::<InvalidAnswer>().is_some(),
                "{failure}"
            );
            return Seen::NoAnswer;
        }
    };
    let status = answer.status().as_u16();
    let (mut body, mut got) = (answer.into_body(), Vec::new());
    let is_whole = loop {
        match body.frame().await {
            None => break true,
            Some(Ok(frame)) => got.extend(frame.into_data().unwrap_or_default()),
            Some(Err(error)) => {
                assert!(cause_of(error).caused_by::<AnswerBroken>().is_some());
                break false;
            }
        }
    };
    Seen::Answer {
        status,
        body: got,
        is_whole,
    }
}

fn try_it(leaf: Leaf, script: Script, cuts: Vec<Index>) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let (server, upstream) = pair(leaf).await;
        tokio::spawn(serve(server, script, cuts));
        look(&upstream).await
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn over_plain_http(script in scripts(), cuts in vec(any::<Index>(), 0..40)) {
        let expected = script.seen_over(Leaf::Plain);
        prop_assert_eq!(try_it(Leaf::Plain, script, cuts), expected);
    }

    #[test]
    fn over_tls(script in scripts(), cuts in vec(any::<Index>(), 0..40)) {
        let expected = script.seen_over(Leaf::Tls);
        prop_assert_eq!(try_it(Leaf::Tls, script, cuts), expected);
    }
}
