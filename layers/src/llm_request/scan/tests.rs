#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{Dialect, Operation};

pub(super) fn scan_with(keys: Keys, pieces: &[&[u8]]) -> Result<Scanned, ScanError> {
    let mut scanner = Scanner::new(keys);
    for piece in pieces {
        scanner.feed(piece)?;
    }
    scanner.finish()
}

pub(super) fn generate() -> Keys {
    Keys::of(Dialect::Ollama, Operation::Generate)
}

pub(super) fn scan(body: impl AsRef<[u8]>) -> Result<Scanned, ScanError> {
    scan_with(generate(), &[body.as_ref()])
}

fn model(body: &str) -> Option<String> {
    scan(body).unwrap().model.map(|name| name.to_string())
}

fn text(body: impl AsRef<[u8]>) -> String {
    scan(body).unwrap_err().to_string()
}

#[test]
fn all_keys_are_found_in_every_order() {
    let found = scan(
        r#" {"prompt":"x","options":{"temperature":0.5,"num_ctx":4096,"num_predict":-1},
            "format":{"model":"no","stream":false},"stream" : false, "keep_alive":"1h30m",
            "images":["model",{"model":1}], "model":"llama3" } "#,
    )
    .unwrap();
    assert_eq!(found.model.as_deref(), Some("llama3"));
    assert_eq!(found.stream, Some(false));
    assert_eq!(found.num_ctx, Some(4096));
    assert_eq!(found.max_tokens, None);
    assert_eq!(
        found.keep_alive,
        Some(KeepAlive::For(Duration::from_secs(5400)))
    );
    assert!(!found.has_no_prompt && !found.is_empty_object);
    assert_eq!(found.members_begin, 2);
}

#[test]
fn each_dialects_limit_of_the_answer_is_found_and_the_largest_counts() {
    for (dialect, body, limit) in [
        (Dialect::Ollama, r#"{"options":{"num_predict":7}}"#, Some(7)),
        (Dialect::OpenAi, r#"{"max_tokens":7}"#, Some(7)),
        (
            Dialect::OpenAi,
            r#"{"max_tokens":9,"max_completion_tokens":7}"#,
            Some(9),
        ),
        (Dialect::Responses, r#"{"max_output_tokens":7}"#, Some(7)),
        (Dialect::Anthropic, r#"{"max_tokens":7}"#, Some(7)),
        (Dialect::OpenAi, r#"{"max_tokens":null}"#, None),
    ] {
        let found = scan_with(Keys::of(dialect, Operation::Chat), &[body.as_bytes()]).unwrap();
        assert_eq!(found.max_tokens, limit, "{body}");
    }
}

#[test]
fn only_the_options_of_the_body_are_options() {
    for body in [
        r#"{"options":{"deep":{"num_ctx":1}}}"#,
        r#"{"options":[{"num_ctx":1}]}"#,
        r#"{"other":{"num_ctx":1}}"#,
        r#"{"options":{"a":1},"num_ctx":1}"#,
        r#"{"options":{"num_ctx":"1"}}"#,
        r#"{"options":null}"#,
    ] {
        assert_eq!(scan(body).unwrap().num_ctx, None, "{body}");
    }
}

#[test]
fn a_context_size_that_ollama_would_read_as_4_tokens_is_corrected() {
    let (digits, max) = ("0".repeat(200), Some(2_147_483_647));
    for (text, size, is_corrected) in [
        ("null", None, false),
        ("-5", None, true),
        ("0", None, true),
        ("0.5", None, true),
        ("3.99", None, true),
        ("4", Some(4), false),
        ("4096.7", Some(4096), false),
        ("2147483647", max, false),
        ("2147483648", max, true),
        ("9223372036854775807", max, true),
        ("1e30", max, true),
        ("-1e30", None, true),
        // Too long to be read.
        (&*format!("4096.{digits}"), None, true),
        (&*format!("1{digits}"), None, true),
        // Refused by the server.
        ("1e400", None, false),
        (r#""8192""#, None, false),
    ] {
        let body = format!(r#"{{"options":{{"num_ctx":{text}}}}}"#);
        let found = scan(&body).unwrap();
        let corrects = found.places.corrects_num_ctx();
        assert_eq!((found.num_ctx, corrects), (size, is_corrected), "{text}");
    }
}

#[test]
fn the_span_of_a_model_is_that_of_its_value() {
    for (body, value) in [
        (r#"{"model":"a","b":1}"#, "\"a\""),
        ("{\"x\":1, \"model\" :\n null }", "null"),
        (r#"{"model":"a\"\\b"}"#, r#""a\"\\b""#),
    ] {
        let span = scan(body).map(|found| found.model_value.unwrap());
        match span {
            Ok(span) => assert_eq!(&body[span.start as usize..span.end as usize], value),
            Err(error) => assert_eq!(error, ScanError::InvalidModelName, "{body}"),
        }
    }
}

#[test]
fn a_model_that_is_missing_null_or_empty_is_none() {
    for body in [
        "{}",
        r#"{"model":null}"#,
        r#"{"model":""}"#,
        r#"{"name":"x"}"#,
    ] {
        assert_eq!(model(body), None, "{body}");
    }
    assert!(scan("{ \n }").unwrap().is_empty_object);
}

#[test]
fn management_takes_name_where_model_is_missing_or_empty() {
    let keys = Keys::of(Dialect::Ollama, Operation::Pull);
    let model = |body: &str| scan_with(keys, &[body.as_bytes()]).unwrap().model;
    assert_eq!(model(r#"{"name":"a"}"#).as_deref(), Some("a"));
    assert_eq!(model(r#"{"name":"a","model":"b"}"#).as_deref(), Some("b"));
    assert_eq!(model(r#"{"model":"","name":"a"}"#).as_deref(), Some("a"));
    let copy = Keys::of(Dialect::Ollama, Operation::Copy);
    let found = scan_with(copy, &[br#"{"source":"a","destination":"b"}"#]);
    assert_eq!(found.unwrap().model.as_deref(), Some("a"));
}

#[test]
fn a_key_that_two_parsers_could_match_differently_is_refused() {
    for (body, key) in [
        (r#"{"model":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","MODEL":"b"}"#, "model"),
        (r#"{"Model":"a"}"#, "model"),
        (r#"{"model":null,"model":"b"}"#, "model"),
        (r#"{"mode\u006c":"a","model":"b"}"#, "model"),
        ("{\"\u{17f}tream\":true}", "stream"),
        (r#"{"\u017ftream":true}"#, "stream"),
        (r#"{"KEEP_ALIVE":1}"#, "keep_alive"),
        ("{\"\u{212a}eep_alive\":1}", "keep_alive"),
        (r#"{"options":{},"options":{}}"#, "options"),
        (r#"{"options":{"num_ctx":1,"num_ctx":2}}"#, "num_ctx"),
        (r#"{"prompt":"","prompt":"x"}"#, "prompt"),
    ] {
        assert_eq!(scan(body), Err(ScanError::AmbiguousKey { key }), "{body}");
    }
    // An escape alone is not ambiguous, and unused keys are not checked.
    assert_eq!(model(r#"{"\u006dodel":"a"}"#).as_deref(), Some("a"));
    assert!(scan(r#"{"x":1,"x":2,"NAME":3,"messages":1,"messages":2,"m\u00f6del":1}"#).is_ok());
    assert!(scan(r#"{"a":{"model":1,"model":2},"b":{"num_ctx":1,"NUM_CTX":1}}"#).is_ok());
}

#[test]
fn texts_are_those_of_go() {
    for (body, expected) in [
        (&b""[..], "missing request body"),
        (b" \n", "missing request body"),
        (b"{\"model\":", "unexpected EOF"),
        (b"{", "unexpected EOF"),
        (b"{\"model\":\"a\"", "unexpected EOF"),
        (
            b"\xef\xbb\xbf{}",
            "invalid character 'ï' looking for beginning of value",
        ),
        (
            b"\x1f\x8b",
            r"invalid character '\x1f' looking for beginning of value",
        ),
        (
            b"{1:2}",
            "invalid character '1' looking for beginning of object key string",
        ),
        (
            b"{\"a\":1,}",
            "invalid character '}' looking for beginning of object key string",
        ),
        (b"{\"a\" 1}", "invalid character '1' after object key"),
        (
            b"{\"a\":1 2}",
            "invalid character '2' after object key:value pair",
        ),
        (
            b"{\"a\":[1 2]}",
            "invalid character '2' after array element",
        ),
        (
            b"{\"a\":[1,]}",
            "invalid character ']' looking for beginning of value",
        ),
        (
            b"{\"a\":1]",
            "invalid character ']' after object key:value pair",
        ),
        (
            b"{\"a\":\"\n\"}",
            r"invalid character '\n' in string literal",
        ),
        (
            b"{\"a\":\"\\'\"}",
            r"invalid character '\'' in string escape code",
        ),
        (
            b"{\"a\":\"\\u12g4\"}",
            r"invalid character 'g' in \u hexadecimal character escape",
        ),
        (b"{\"a\":-}", "invalid character '}' in numeric literal"),
        (
            b"{\"a\":01}",
            "invalid character '1' after object key:value pair",
        ),
        (
            b"{\"a\":1.}",
            "invalid character '}' after decimal point in numeric literal",
        ),
        (
            b"{\"a\":1e+}",
            "invalid character '}' in exponent of numeric literal",
        ),
        (
            b"{\"a\":trve}",
            "invalid character 'v' in literal true (expecting 'u')",
        ),
        (b"[1]", "the request body must be a JSON object, not array"),
        (b"null", "the request body must be a JSON object, not null"),
        (b"12", "the request body must be a JSON object, not number"),
        (
            b"\"x\"",
            "the request body must be a JSON object, not string",
        ),
    ] {
        assert_eq!(text(body), expected, "{}", body.escape_ascii());
    }
}

#[test]
fn wrong_types_are_named() {
    for (body, key, found, expected) in [
        (r#"{"model":["a"]}"#, "model", "array", "string"),
        (r#"{"model":{"a":1}}"#, "model", "object", "string"),
        (r#"{"model":7}"#, "model", "number", "string"),
        (r#"{"model":true}"#, "model", "bool", "string"),
        (r#"{"stream":"true"}"#, "stream", "string", "bool"),
        (r#"{"stream":0}"#, "stream", "number", "bool"),
    ] {
        let error = ScanError::WrongType {
            key,
            found,
            expected,
        };
        assert_eq!(scan(body), Err(error), "{body}");
    }
    assert_eq!(scan(r#"{"stream":null}"#).unwrap().stream, None);
    // An error of the whole takes precedence over one of a part.
    assert_eq!(text(r#"{"model":7"#), "unexpected EOF");
}

#[test]
fn what_follows_the_value_is_ignored() {
    assert_eq!(model(r#"{"model":"a"} trailing"#).as_deref(), Some("a"));
    assert!(scan(b"{}\xff{\"model\":7}").is_ok());
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(scan(nested(MAX_DEPTH as usize - 1)).is_ok());
    assert_eq!(scan(nested(MAX_DEPTH as usize)), Err(ScanError::TooDeep));
    assert_eq!(scan("[".repeat(1 << 20)), Err(ScanError::TooDeep));
}

#[test]
fn text_must_be_utf8() {
    for bad in [
        &b"\xff"[..],
        b"\xc3",
        b"\xc3(",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98",
        b"\xc0\xaf",
    ] {
        let body = [b"{\"prompt\":\"", bad, b"\"}"].concat();
        assert_eq!(
            scan(&body),
            Err(ScanError::InvalidUtf8),
            "{}",
            bad.escape_ascii()
        );
        let pieces: Vec<_> = body.chunks(1).collect();
        assert_eq!(scan_with(generate(), &pieces), Err(ScanError::InvalidUtf8));
    }
    let whole = "{\"prompt\":\"aé漢😀\"}";
    let pieces: Vec<_> = whole.as_bytes().chunks(1).collect();
    assert!(scan_with(generate(), &pieces).is_ok());
}

#[test]
fn names_with_path_traversal_are_refused() {
    for name in [
        "../../etc",
        "a/../b",
        "..",
        "a\\nb",
        "a\\u0000",
        "a\\r",
        "c:\\\\x",
        "./a",
    ] {
        let body = format!(r#"{{"model":"{name}"}}"#);
        assert_eq!(scan(&body), Err(ScanError::InvalidModelName), "{body}");
    }
    let long = format!(r#"{{"model":"{}"}}"#, "a".repeat(MAX_NAME_BYTES + 1));
    assert_eq!(scan(&long), Err(ScanError::InvalidModelName));
    for name in [
        "a@sha256:00",
        "registry.ollama.ai/library/a:latest",
        "a..b",
        "Ä",
    ] {
        assert_eq!(
            model(&format!(r#"{{"model":"{name}"}}"#)).as_deref(),
            Some(name)
        );
    }
}

#[test]
fn names_are_unescaped_as_go_does() {
    for (escaped, name) in [
        (r"\u0061\/b", "a/b"),
        (r"\ud83d\ude00", "\u{1f600}"),
        (r"\ud83dx", "\u{fffd}x"),
        (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
        (r"\ud83d\u0041", "\u{fffd}A"),
        (r"\ud83d", "\u{fffd}"),
    ] {
        let found = model(&format!(r#"{{"model":"{escaped}"}}"#));
        assert_eq!(found.as_deref(), Some(name), "{escaped}");
    }
}

#[test]
fn keep_alive_is_read_as_ollama_reads_it() {
    let seconds = |seconds: f64| Some(KeepAlive::For(Duration::from_secs_f64(seconds)));
    let (forever, unclear) = (Some(KeepAlive::Forever), Some(KeepAlive::Unclear));
    for (written, expected) in [
        ("null", None),
        ("0", seconds(0.0)),
        ("-0", seconds(0.0)),
        ("300", seconds(300.0)),
        ("1.5", seconds(1.5)),
        ("3e2", seconds(300.0)),
        ("-1", forever),
        ("-0.5", forever),
        ("1e300", unclear),
        ("1e999", unclear),
        ("true", unclear),
        ("[]", unclear),
        (r#""10m""#, seconds(600.0)),
        (r#""1h30m""#, seconds(5400.0)),
        (r#""1.5h""#, seconds(5400.0)),
        (r#""+5s""#, seconds(5.0)),
        (r#""1m.5s""#, seconds(60.5)),
        (r#""100ms""#, seconds(0.1)),
        (r#""0""#, seconds(0.0)),
        (r#""-0""#, seconds(0.0)),
        (r#""0s""#, seconds(0.0)),
        (r#""-1s""#, forever),
        (r#""-1m""#, forever),
        (r#""-1""#, unclear),
        (r#""1""#, unclear),
        (r#""soon""#, unclear),
        (r#""""#, unclear),
        (r#""-""#, unclear),
        (r#"".s""#, unclear),
        (r#""1d""#, unclear),
        (r#""10 m""#, unclear),
        (r#""9999999999h""#, unclear),
    ] {
        let found = scan(format!(r#"{{"keep_alive":{written}}}"#)).unwrap();
        assert_eq!(found.keep_alive, expected, "{written}");
    }
}

#[test]
fn a_prompt_may_be_missing_null_or_empty() {
    let has_no_prompt = |dialect, operation, body: &str| {
        scan_with(Keys::of(dialect, operation), &[body.as_bytes()])
            .unwrap()
            .has_no_prompt
    };
    use Dialect::{Anthropic, Ollama, OpenAi, Responses};
    use Operation::{Chat, Embed, Generate};
    for (dialect, operation, key) in [
        (Ollama, Generate, "prompt"),
        (Ollama, Chat, "messages"),
        (Ollama, Embed, "input"),
        (Ollama, Embed, "prompt"),
        (OpenAi, Chat, "messages"),
        (OpenAi, Generate, "prompt"),
        (OpenAi, Embed, "input"),
        (Responses, Chat, "input"),
        (Anthropic, Chat, "messages"),
    ] {
        for empty in ["null", "\"\"", "[]", "[ ]"] {
            let body = format!(r#"{{"{key}":{empty},"other":"x"}}"#);
            assert!(has_no_prompt(dialect, operation, &body), "{body}");
        }
        for full in ["\"x\"", "[1]", "[[]]", "7", r#""\n""#] {
            let body = format!(r#"{{"{key}":{full}}}"#);
            assert!(!has_no_prompt(dialect, operation, &body), "{body}");
        }
    }
}

#[test]
fn a_huge_string_is_scanned() {
    let image = "QUJD/+==".repeat(1 << 18);
    let body = format!(r#"{{"images":["{image}"],"prompt":"{image}","model":"a"}}"#);
    for size in [1 << 20, 16 << 10, 8191, 63] {
        let pieces: Vec<_> = body.as_bytes().chunks(size).collect();
        let found = scan_with(generate(), &pieces).unwrap();
        assert_eq!(found.model.as_deref(), Some("a"));
    }
}

/// The results of Go 1.26 for these bodies, read by a `json.Decoder` into a struct with `model`,
/// `stream` and `keep_alive` like Ollama's. Each character of a body is one byte.
#[test]
fn results_equal_those_of_go() {
    for line in include_str!("go_verdicts.jsonl").lines() {
        let verdict: Value = serde_json::from_str(line).unwrap();
        let body: Vec<u8> = verdict["body"]
            .as_str()
            .unwrap()
            .chars()
            .map(|c| c as u8)
            .collect();
        match (scan(&body), verdict["error"].as_str()) {
            // Stricter than Go on purpose.
            (Err(ScanError::AmbiguousKey { .. } | ScanError::InvalidModelName), _) => {}
            // The layer adds Go's texts for these errors, and Go has its own text for an empty
            // body.
            (Err(ScanError::WrongType { .. } | ScanError::NotAnObject { .. }), Some(go)) => {
                assert!(
                    go.starts_with("json: cannot unmarshal") || go.starts_with("time:"),
                    "{line}"
                );
            }
            (Err(ScanError::Empty), go) => assert_eq!(go, Some("EOF")),
            (Err(error), go) => assert_eq!(Some(&*error.to_string()), go, "{line}"),
            (Ok(found), None) => {
                assert_eq!(*found.model.unwrap_or_default(), verdict["model"], "{line}");
                assert_eq!(found.stream, verdict["stream"].as_bool(), "{line}");
                let nanoseconds = verdict["keep_alive"].as_i64();
                let read = match found.keep_alive {
                    None => None,
                    Some(KeepAlive::Forever) => Some(i64::MAX),
                    Some(KeepAlive::For(duration)) => i64::try_from(duration.as_nanos()).ok(),
                    // Go's conversion is undefined here.
                    Some(KeepAlive::Unclear) => Some(i64::MIN),
                };
                assert_eq!(read, nanoseconds, "{line}");
            }
            // A duration that only Go judges.
            (Ok(found), Some(_)) => {
                assert_eq!(found.keep_alive, Some(KeepAlive::Unclear), "{line}")
            }
        }
    }
}

/// How the prompt of this body begins.
fn prefix(keys: Keys, body: &str) -> PromptPrefix {
    let mut scanner = Scanner::new(keys).with_prefix_blocks(64);
    scanner.feed(body.as_bytes()).unwrap();
    scanner.finish().unwrap().prefix
}

fn message(content: &str) -> Value {
    json!({"role": "user", "content": content.repeat(1000)})
}

#[test]
fn a_conversation_that_grows_keeps_the_first_blocks_of_its_prefix() {
    let keys = Keys::of(Dialect::Ollama, Operation::Chat);
    let of = |messages: Value| prefix(keys, &json!({"messages": messages}).to_string());
    let one = of(json!([message("one ")]));
    let two = of(json!([message("one "), message("two ")]));
    let other = of(json!([message("one "), message("2nd ")]));
    assert_eq!((one.blocks().len(), two.blocks().len()), (1, 3));
    assert!(two.blocks().starts_with(one.blocks()));
    assert_eq!(two.blocks()[..1], other.blocks()[..1]);
    assert_ne!(two.blocks()[2], other.blocks()[2]);
    let short = of(json!([{"role": "user", "content": "short"}]));
    assert!(short.blocks().is_empty() && short.part_of_prompt() == 0.0);
}

#[test]
fn a_block_includes_all_blocks_before_it() {
    let of = |first: &str| {
        let prompt = first.repeat(2047) + &"z".repeat(4096);
        prefix(generate(), &format!(r#"{{"prompt":"{prompt}"}}"#))
    };
    let (one, other) = (of("a"), of("b"));
    assert_eq!((one.blocks().len(), other.blocks().len()), (3, 3));
    for (one, other) in one.blocks().iter().zip(other.blocks()) {
        assert_ne!(one, other);
    }
}

#[test]
fn the_order_of_other_keys_does_not_change_the_prefix() {
    let keys = Keys::of(Dialect::OpenAi, Operation::Chat);
    let messages = json!([message("one "), message("two ")]);
    let model_first = format!(r#"{{"model":"a","stream":true,"messages":{messages}}}"#);
    let model_last = format!(r#"{{"messages":{messages},"model":"a","stream":true}}"#);
    let (one, other) = (prefix(keys, &model_first), prefix(keys, &model_last));
    assert_eq!(one, other);
    assert_eq!(one.blocks().len(), 3);
}

#[test]
fn a_system_prompt_before_the_messages_belongs_to_the_prefix_and_may_be_ambiguous() {
    let keys = Keys::of(Dialect::Anthropic, Operation::Chat);
    let of = |system: &str| {
        let messages = json!([message("one ")]);
        let body = format!(r#"{{"system":"{system}","SYSTEM":1,"messages":{messages}}}"#);
        prefix(keys, &body)
    };
    assert_eq!(of("a").blocks().len(), 1);
    assert_ne!(of("a"), of("b"));
}
