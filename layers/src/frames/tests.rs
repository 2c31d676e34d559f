#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::EndpointTable;

fn tail_of(framing: Framing, frames: &[&str]) -> Tail {
    let mut tail = Tail::new(framing);
    for frame in frames {
        tail.push(&Bytes::copy_from_slice(frame.as_bytes()));
    }
    tail
}

fn end_of(framing: Framing, rule: EndRule, text: &str) -> StreamEnd {
    tail_of(framing, &[text]).end(rule)
}

#[test]
fn a_native_stream_is_complete_if_its_last_line_is_done() {
    use StreamEnd::{Complete, Error, Unfinished};
    for (text, expected) in [
        ("", Unfinished),
        ("{\"done\":false}\n", Unfinished),
        ("{\"done\":true}\n", Complete),
        ("{\"done\":true}", Complete),
        ("{\"done\":true}\n\n \n", Complete),
        ("{\"done\":true}\n{\"done\":false}\n", Unfinished),
        ("{\"done\":true}\n{\"do", Unfinished),
        ("{\"message\":{\"done\":true}}\n", Unfinished),
        (
            "{\"response\":\"\\\"done\\\":true\",\"done\":false}\n",
            Unfinished,
        ),
        ("{\"done\":\"true\"}\n", Unfinished),
        ("[true]\n", Unfinished),
        ("garbage\n", Unfinished),
        ("{\"done\":false}\n{\"error\":\"unexpected EOF\"}\n", Error),
        ("{\"done\":true,\"error\":null}\n", Complete),
    ] {
        assert_eq!(
            end_of(Framing::Ndjson, EndRule::Done, text),
            expected,
            "{text}"
        );
    }
}

#[test]
fn the_end_of_a_stream_without_a_rule_is_known_only_from_success_or_error() {
    use StreamEnd::{Complete, Error, Unfinished, Unknown};
    for (text, expected) in [
        ("", Unknown),
        ("{\"status\":\"success\"}\n", Complete),
        ("{\"status\":\"pulling\"}\n", Unknown),
        (
            "{\"status\":\"pulling\"}\n{\"error\":\"no such host\"}\n",
            Error,
        ),
        ("{\"status\":\"pulling\"}\n{\"status\":\"ver", Unfinished),
        (
            "{\"status\":\"pulling\"}\n{\"status\":\"verifying\"}",
            Unknown,
        ),
    ] {
        let end = end_of(Framing::Ndjson, EndRule::AnyItem, text);
        assert_eq!(end, expected, "{text}");
    }
}

#[test]
fn the_next_sequence_number_follows_the_last_event() {
    let number = |text| tail_of(Framing::Sse, &[text]).next_sequence_number();
    let event = "event: response.created\ndata: {\"response\":{},\"sequence_number\":58}\n\n";
    assert_eq!(number(event), 59);
    assert_eq!(number("data: {}\n\n"), 0);
    assert_eq!(number(""), 0);
}

#[test]
fn an_event_stream_is_complete_by_the_rule_of_its_dialect() {
    use EndRule::{DoneMarker, MessageStop, ResponseEvent};
    use StreamEnd::{Complete, Error, Unfinished};
    for (rule, text, expected) in [
        (
            DoneMarker,
            "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
            Complete,
        ),
        (
            DoneMarker,
            "data: [DONE]\r\n\r\n: keep-alive\r\n\r\n",
            Complete,
        ),
        (DoneMarker, "data: [DONE]\n", Complete),
        (DoneMarker, "data: {\"model\":\"\"}\n\n", Unfinished),
        (
            DoneMarker,
            "data: {\"error\":{\"message\":\"m\"}}\n\n",
            Error,
        ),
        (DoneMarker, ": keep-alive\n\n", Unfinished),
        (
            MessageStop,
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            Complete,
        ),
        (
            MessageStop,
            "event: message_delta\ndata: {\"type\":\"x\"}\n\n",
            Unfinished,
        ),
        (
            MessageStop,
            "event: error\ndata: {\"type\":\"error\"}\n\n",
            Error,
        ),
        (
            ResponseEvent,
            "event: response.completed\ndata: {\"response\":{\"error\":null}}\n\n",
            Complete,
        ),
        (
            ResponseEvent,
            "data: {\"type\":\"response.incomplete\"}\n\n",
            Complete,
        ),
        (ResponseEvent, "event: response.failed\ndata: {}\n\n", Error),
        (
            ResponseEvent,
            "event: response.created\ndata: {}\n\n",
            Unfinished,
        ),
        (
            ResponseEvent,
            "event: error\ndata: {\"type\":\"error\"}\n\n",
            Error,
        ),
    ] {
        assert_eq!(end_of(Framing::Sse, rule, text), expected, "{text}");
    }
}

#[test]
fn each_route_has_its_rule() {
    let table = EndpointTable::ollama();
    for (path, framing, rule) in [
        ("/api/chat", Framing::Ndjson, EndRule::Done),
        ("/api/generate", Framing::Ndjson, EndRule::Done),
        ("/api/pull", Framing::Ndjson, EndRule::AnyItem),
        ("/v1/chat/completions", Framing::Sse, EndRule::DoneMarker),
        ("/v1/completions", Framing::Sse, EndRule::DoneMarker),
        ("/v1/responses", Framing::Sse, EndRule::ResponseEvent),
        ("/v1/messages", Framing::Sse, EndRule::MessageStop),
        ("/nowhere", Framing::Sse, EndRule::AnyItem),
    ] {
        let route = table.look_up(&Method::POST, path);
        let found = EndRule::of(framing, route.dialect(), route.operation());
        assert_eq!(found, rule, "{path}");
    }
}

#[test]
fn the_framing_follows_from_the_head() {
    let framing = |content_type: &str, coding: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_str(content_type).unwrap());
        if let Some(coding) = coding {
            headers.insert("content-encoding", HeaderValue::from_str(coding).unwrap());
        }
        Framing::of(&headers)
    };
    assert_eq!(framing("application/x-ndjson", None), Some(Framing::Ndjson));
    assert_eq!(
        framing("Text/Event-Stream ; charset=utf-8", None),
        Some(Framing::Sse)
    );
    assert_eq!(
        framing("text/event-stream", Some("identity")),
        Some(Framing::Sse)
    );
    assert_eq!(framing("text/event-stream", Some("gzip")), None);
    assert_eq!(framing("application/json; charset=utf-8", None), None);
    assert_eq!(Framing::of(&HeaderMap::new()), None);
}

#[test]
fn a_long_line_is_stored_in_its_pieces() {
    let mut tail = Tail::new(Framing::Ndjson);
    tail.push(&Bytes::from_static(b"{\"done\":false}\n{\"embedding\":\""));
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    for _ in 0..112 {
        tail.push(&piece);
        assert!(!tail.is_at_boundary());
    }
    tail.push(&Bytes::from_static(b"\",\"done\":true}\n"));
    assert!(tail.is_at_boundary());
    assert_eq!(tail.last_item().unwrap().len(), 14 + (7 << 20) + 14);
    assert_eq!(tail.end(EndRule::Done), StreamEnd::Complete);
}

#[test]
fn a_line_above_the_limit_is_dropped() {
    let mut tail = Tail::new(Framing::Ndjson);
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..=16 {
        tail.push(&piece);
    }
    drop(tail.clone());
    assert_eq!(tail.last_item(), None);
    assert_eq!(tail.end(EndRule::Done), StreamEnd::Unfinished);
    assert!(piece.is_unique(), "passed bytes are not stored");
    tail.push(&Bytes::from_static(b"x\n{\"done\":true}\n"));
    assert_eq!(tail.end(EndRule::Done), StreamEnd::Complete);
}

#[test]
fn only_the_last_item_is_stored() {
    let first = Bytes::from(b"{\"n\":1}\n".to_vec());
    let mut tail = Tail::new(Framing::Ndjson);
    tail.push(&first);
    tail.push(&Bytes::from_static(b"{\"n\":2}\n"));
    assert!(first.is_unique());
}

/// A reference implementation: whether the text ends at a boundary, and its last item.
fn oracle(framing: Framing, text: &str) -> (bool, Option<String>) {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut items = vec![Vec::new()];
    let mut is_at_boundary = true;
    for (index, line) in lines.iter().enumerate() {
        let is_ended = index + 1 < lines.len();
        let is_empty = line.trim_end_matches('\r').is_empty() && line.len() < 2;
        match framing {
            Framing::Ndjson => {
                is_at_boundary = is_ended || line.is_empty();
                items.push(vec![*line]);
            }
            Framing::Sse => {
                if is_ended && is_empty {
                    items.push(Vec::new());
                    is_at_boundary = true;
                } else if is_ended || !line.is_empty() {
                    items.last_mut().unwrap().push(line);
                    is_at_boundary = false;
                }
            }
        }
    }
    let says_something = |item: &&Vec<&str>| match framing {
        Framing::Ndjson => !item.concat().trim_ascii_end().is_empty(),
        Framing::Sse => item
            .iter()
            .any(|line| !line.starts_with(':') && !line.trim_end_matches('\r').is_empty()),
    };
    let last = items.iter().rev().find(says_something);
    let text = last.map(|lines| match framing {
        Framing::Ndjson => lines.concat().trim_ascii_end().to_owned(),
        Framing::Sse => lines.join("\n").trim_end_matches(['\r', '\n']).to_owned(),
    });
    (is_at_boundary, text)
}

fn stream(framing: Framing) -> impl Strategy<Value = String> {
    let part = match framing {
        Framing::Ndjson => "(\\{\"n\":[0-9]\\}|\\{\\}| )?(\n|\r\n|)",
        Framing::Sse => "(data: [a-c]|: ping|event: x|)(\n|\r\n|\n\n|\r\n\r\n)|data|:",
    };
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn cut(text: &str, cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    at.windows(2)
        .map(|pair| bytes.slice(pair[0]..pair[1]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn splits_do_not_matter(
        (framing, text) in prop_oneof![Just(Framing::Ndjson), Just(Framing::Sse)]
            .prop_flat_map(|framing| (Just(framing), stream(framing))),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut tail = Tail::new(framing);
        let mut seen = String::new();
        for frame in cut(&text, &cuts) {
            tail.push(&frame);
            seen.push_str(std::str::from_utf8(&frame).unwrap());
            let (is_at_boundary, last) = oracle(framing, &seen);
            prop_assert_eq!(tail.is_at_boundary(), is_at_boundary, "{:?}", seen);
            let found = tail.last_item().map(|item| String::from_utf8(item.to_vec()).unwrap());
            prop_assert_eq!(found, last, "{:?}", seen);
        }
    }
}

#[test]
fn the_first_event_is_found_in_every_split_and_after_comments() {
    let text = ": waiting\n\n: waiting\r\n\r\nevent: a\ndata: {\"id\":1}\n\ndata: {\"id\":2}\n\n";
    for at in 0..text.len() {
        let (mut tail, mut opening) = (Tail::new(Framing::Sse), Opening::default());
        for piece in [&text[..at], &text[at..]] {
            let frame = Bytes::copy_from_slice(piece.as_bytes());
            tail.push(&frame);
            opening.push(&frame, &tail);
        }
        assert_eq!(opening.data(), "{\"id\":1}", "cut at {at}");
    }
    assert_eq!(Opening::default().data(), "");
}
