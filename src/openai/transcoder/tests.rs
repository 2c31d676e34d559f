#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Moment = Moment {
    elapsed: Duration::from_millis(7),
    wall: Timestamp::UNIX_EPOCH,
};

/// The lines of a stream that arrives in these pieces, and how it ends.
fn transcode<'a>(
    shape: Shape,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (String, Result<(), StreamFault>) {
    let mut transcoder = Transcoder::new(shape, "tiny");
    let mut lines = BytesMut::new();
    for piece in pieces {
        if let Err(fault) = transcoder.push(piece, NOW, &mut lines) {
            return (String::from_utf8(lines.to_vec()).unwrap(), Err(fault));
        }
    }
    let end = transcoder.end();
    (String::from_utf8(lines.to_vec()).unwrap(), end)
}

fn lines(shape: Shape, stream: &str) -> (Vec<Value>, Result<(), StreamFault>) {
    let (text, end) = transcode(shape, [stream.as_bytes()]);
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), end)
}

/// A stream of these events.
fn events(events: &[Value]) -> String {
    let events = events.iter().map(|event| match event {
        Value::String(text) => format!("data: {text}\n\n"),
        event => format!("data: {event}\n\n"),
    });
    events.collect()
}

fn delta(delta: Value) -> Value {
    json!({"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn usage() -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}})
}

fn done() -> Value {
    "[DONE]".into()
}

/// A chat with everything: thoughts, text, calls in fragments, counts, comments, carriage returns.
fn full_chat() -> String {
    let begun = events(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "hm\u{2028}m"})),
        delta(json!({"reasoning": "…"})),
        delta(json!({"content": "a \"b\"\n🦙"})),
    ]);
    let ended = events(&[
        delta(
            json!({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}]}),
        ),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\": 1"}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]})),
        finish("tool_calls"),
        usage(),
        done(),
    ]);
    format!(
        ": ping\n\n{begun}event: x\r\nid: 7\r\n{}",
        ended.replace('\n', "\r\n")
    )
}

#[test]
fn a_chat_becomes_lines_with_thoughts_text_calls_and_counts() {
    let (lines, end) = lines(Shape::Chat, &full_chat());
    assert_eq!(end, Ok(()));
    let messages: Vec<_> = lines.iter().map(|line| line["message"].clone()).collect();
    let message = |content: &str| json!({"role": "assistant", "content": content});
    let with = |name: &str, value: Value| {
        let mut message = message("");
        message[name] = value;
        message
    };
    let calls =
        json!([{"id": "c1", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}}]);
    assert_eq!(
        messages,
        [
            with("thinking", "hm\u{2028}m".into()),
            with("thinking", "…".into()),
            message("a \"b\"\n🦙"),
            with("tool_calls", calls),
            message(""),
        ]
    );
    let last = lines.last().unwrap();
    assert_eq!(last["done_reason"], "stop");
    assert_eq!(
        (&last["prompt_eval_count"], &last["eval_count"]),
        (&json!(11), &json!(3))
    );
    assert_eq!(last["total_duration"], 7_000_000);
    assert!(
        lines[..4]
            .iter()
            .all(|line| line["done"] == false && line["model"] == "tiny")
    );
}

#[test]
fn a_prompt_becomes_lines_of_generate_from_a_chat_or_a_completion() {
    let chat = events(&[delta(json!({"content": "Hi"})), finish("length"), done()]);
    let completion = events(&[
        json!({"choices": [{"index": 0, "text": "Hi", "finish_reason": null}]}),
        json!({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}),
        done(),
    ]);
    for stream in [chat, completion] {
        let (lines, end) = lines(Shape::Generate, &stream);
        assert_eq!(end, Ok(()));
        let texts: Vec<_> = lines.iter().map(|line| line["response"].clone()).collect();
        assert_eq!(texts, ["Hi", ""]);
        assert_eq!(lines[1]["done_reason"], "length");
    }
}

#[test]
fn probabilities_of_tokens_are_copied() {
    let token = json!({"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []});
    let stream = events(&[
        json!({"choices": [{"delta": {"content": "Hi"}, "logprobs": {"content": [token]}}]}),
    ]);
    let (lines, _) = lines(Shape::Chat, &stream);
    assert_eq!(lines[0]["logprobs"], json!([token]));
}

#[test]
fn without_counts_of_the_server_the_events_are_counted() {
    let hi = delta(json!({"content": "Hi"}));
    let role = delta(json!({"role": "assistant"}));
    let stream = events(&[role, hi.clone(), hi, finish("stop"), done()]);
    let (lines, _) = lines(Shape::Chat, &stream);
    let last = lines.last().unwrap();
    assert_eq!(last["eval_count"], 2);
    assert_eq!(last.get("prompt_eval_count"), None);
}

#[test]
fn durations_that_the_server_tells_replace_those_of_the_clock() {
    for told in [
        json!({"choices": [], "timings": {"prompt_ms": 2.0, "predicted_ms": 3.0}}),
        json!({"choices": null, "usage": {"prompt_time": 0.002, "completion_time": 0.003}}),
        json!({"choices": [], "x_groq": {"usage": {"prompt_time": 0.002, "completion_time": 0.003}}}),
    ] {
        let stream = events(&[
            delta(json!({"content": "Hi"})),
            finish("stop"),
            told,
            done(),
        ]);
        let (lines, _) = lines(Shape::Chat, &stream);
        let last = lines.last().unwrap();
        assert_eq!(last["prompt_eval_duration"], 2_000_000);
        assert_eq!(last["eval_duration"], 3_000_000);
    }
}

#[test]
fn an_incomplete_stream_has_no_final_line() {
    let hi = delta(json!({"content": "Hi"}));
    for stream in [
        events(std::slice::from_ref(&hi)),
        events(&[hi.clone(), finish("stop")]),
        events(&[hi.clone(), finish("stop"), usage()]),
        events(&[hi.clone(), done()]),
        events(&[hi.clone(), usage(), done()]),
        format!(
            "{}data: {{\"choices\":[{{",
            events(std::slice::from_ref(&hi))
        ),
        events(&[
            hi.clone(),
            delta(json!({"content": [{"type": "text", "text": "x"}]})),
            finish("stop"),
            done(),
        ]),
        format!("{}data: <html>\n\n", events(std::slice::from_ref(&hi))),
        // Ollama's, after its engine has died.
        events(&[hi.clone(), json!({"model": "", "choices": []})]),
        String::new(),
    ] {
        let (lines, end) = lines(Shape::Chat, &stream);
        assert!(matches!(end, Err(StreamFault::Broken(_))), "{stream}");
        assert!(lines.iter().all(|line| line["done"] == false), "{stream}");
    }
}

#[test]
fn an_error_in_the_stream_ends_it_with_its_text_and_status() {
    let hi = delta(json!({"content": "Hi"}));
    let groq =
        json!({"choices": [{"delta": {}}], "x_groq": {"id": "r1", "error": "over capacity"}});
    for (event, message, status) in [
        (
            json!({"error": {"message": "out of memory", "code": 500}}),
            "out of memory",
            Some(500),
        ),
        (json!({"error": "out of memory"}), "out of memory", None),
        (groq, "over capacity", None),
    ] {
        let stream = events(&[hi.clone(), event, finish("stop"), done()]);
        let (lines, end) = lines(Shape::Chat, &stream);
        let status = status.map(|status| StatusCode::from_u16(status).unwrap());
        let message = message.to_owned();
        assert_eq!(end, Err(StreamFault::Error { message, status }));
        assert_eq!(lines.len(), 1);
    }
    let old = "data: {\"choices\":[]}\n\nerror: {\"code\":503,\"message\":\"busy\"}\n\n";
    let (_, end) = lines(Shape::Chat, old);
    assert!(matches!(end, Err(StreamFault::Error { message, .. }) if message == "busy"));
}

#[test]
fn an_event_of_the_type_error_ends_the_stream_with_its_text() {
    let hi = events(&[delta(json!({"content": "Hi"}))]);
    for (data, message, status) in [
        ("data: out of memory", "out of memory", None),
        ("data: out of\ndata: memory", "out of\nmemory", None),
        (r#"data: {"message":"busy","code":503}"#, "busy", Some(503)),
        (r#"data: {"error":{"message":"busy"}}"#, "busy", None),
    ] {
        // Some servers close the connection without the empty line.
        for end in ["\n\n", "\n"] {
            let stream = format!("{hi}event: error\n{data}{end}");
            let (lines, end) = lines(Shape::Chat, &stream);
            let status = status.map(|status| StatusCode::from_u16(status).unwrap());
            let message = message.to_owned();
            assert_eq!(end, Err(StreamFault::Error { message, status }), "{stream}");
            assert_eq!(lines.len(), 1);
        }
    }
    let other = format!("event: message\n{hi}");
    let rest = events(&[finish("stop"), done()]);
    let (_, end) = lines(Shape::Chat, &format!("{other}{rest}"));
    assert_eq!(end, Ok(()));
}

#[test]
fn a_byte_order_mark_and_data_on_several_lines_are_read() {
    let stream = events(&[delta(json!({"content": "hello"})), finish("stop"), done()]);
    let expected = transcode(Shape::Chat, [stream.as_bytes()]);
    assert_eq!(expected.1, Ok(()));
    let marked = format!("\u{feff}{stream}");
    assert_eq!(transcode(Shape::Chat, [marked.as_bytes()]), expected);
    let split = stream.replace(",", ",\ndata: ");
    assert_eq!(transcode(Shape::Chat, [split.as_bytes()]), expected);
    let large = format!("data: {}\n", "{".repeat(1 << 20)).repeat(32);
    let (_, end) = transcode(Shape::Chat, [large.as_bytes()]);
    assert_eq!(end, Err(StreamFault::Broken(TOO_LONG)));
}

#[test]
fn a_call_whose_arguments_are_no_object_breaks_the_stream_unless_it_was_cut() {
    let call = delta(
        json!({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{\"a"}}]}),
    );
    let (_, end) = lines(
        Shape::Chat,
        &events(&[call.clone(), finish("tool_calls"), done()]),
    );
    assert!(matches!(end, Err(StreamFault::Unusable(_))));
    let (lines, end) = lines(Shape::Chat, &events(&[call, finish("length"), done()]));
    assert_eq!(end, Ok(()));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["done_reason"], "length");
}

#[test]
fn nothing_is_read_after_the_last_event() {
    let stream = events(&[delta(json!({"content": "Hi"})), finish("stop"), done()]);
    let (alone, _) = transcode(Shape::Chat, [stream.as_bytes()]);
    let more = format!("{stream}data: {{\"error\":\"x\"}}\n\ndata: [DONE]\n\nrest");
    assert_eq!(transcode(Shape::Chat, [more.as_bytes()]), (alone, Ok(())));
}

#[test]
fn a_line_without_an_end_is_refused() {
    let mut transcoder = Transcoder::new(Shape::Chat, "tiny");
    let piece = vec![b'a'; 1 << 20];
    let mut lines = BytesMut::new();
    let refused = (0..32).find_map(|_| transcoder.push(&piece, NOW, &mut lines).err());
    assert!(matches!(refused, Some(StreamFault::Broken(_))));
}

#[test]
fn a_line_of_the_stream_needs_no_memory_that_grows_with_the_answer() {
    let event = events(&[delta(json!({"content": " token"}))]);
    let mut transcoder = Transcoder::new(Shape::Chat, "tiny");
    let mut buffer = BytesMut::with_capacity(1024);
    let mut bytes_of = |lines: usize| {
        let info = allocation_counter::measure(|| {
            for _ in 0..lines {
                transcoder.push(event.as_bytes(), NOW, &mut buffer).unwrap();
                buffer.clear();
            }
        });
        (info.bytes_total, info.bytes_max)
    };
    bytes_of(10);
    assert_eq!(
        bytes_of(1000),
        (0, 0),
        "a line that arrives whole allocates nothing"
    );
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_lines(cuts in prop::collection::vec(0..4000usize, 0..40)) {
        let stream = full_chat();
        let bytes = stream.as_bytes();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for to in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..to]);
            from = to;
        }
        prop_assert_eq!(transcode(Shape::Chat, pieces), transcode(Shape::Chat, [bytes]));
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_never_complete(cut in 0..4000usize) {
        let stream = full_chat();
        // The last three bytes end the line of the last event.
        let cut = cut % (stream.len() - 3);
        let (text, end) = transcode(Shape::Chat, [&stream.as_bytes()[..cut]]);
        prop_assert!(end.is_err());
        prop_assert!(!text.contains("\"done\":true"));
    }

    #[test]
    fn any_text_arrives_as_it_was_and_on_one_line(text in "\\PC*|(.|\u{2028}|\u{85}|\n|\r){0,20}") {
        let stream = events(&[delta(json!({"content": text}))]);
        let (written, _) = transcode(Shape::Chat, [stream.as_bytes()]);
        let breaks = written.trim_end_matches('\n').contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
        prop_assert!(!breaks);
        if text.is_empty() {
            prop_assert_eq!(written, "");
        } else {
            let line: Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(&line["message"]["content"], &Value::String(text));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let with_data = [b"data: ", &bytes[..], b"\n\ndata: [DONE]\n\n"].concat();
        for bytes in [&bytes, &with_data] {
            let (text, _) = transcode(Shape::Chat, [&bytes[..]]);
            prop_assert!(!text.contains("\"done\":true"));
        }
    }
}
