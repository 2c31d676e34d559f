//! Each dialect's limit of a response, with a maximum of 100 tokens and without one.

#![allow(clippy::unwrap_used)]

use futures_util::FutureExt;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};

use super::super::scan::{Keys, Scanner};
use super::super::{BodyEdits, LlmRequestLayer};
use super::*;
use crate::endpoint::EndpointLayer;
use crate::{BoxError, EndpointTable, Failure};

type Body = ReplayBody<Full<Bytes>>;

const CHAT: &str = "/v1/chat/completions";

/// What a server gets, and whether the request is marked; or the refusal.
fn sent(
    layer: LlmRequestLayer,
    path: &str,
    body: &[u8],
    edits: BodyEdits,
) -> Result<(String, Option<u64>), BoxError> {
    let inner = service_fn(move |mut request: Request<Body>| {
        edits.apply(&mut request);
        async { Ok::<_, BoxError>(Response::new(request)) }
    });
    let service = EndpointLayer::new(EndpointTable::ollama()).layer(layer.layer(inner));
    let request = Request::post(path).header(header::CONTENT_LENGTH, body.len());
    let request = request.body(ReplayBody::from(Bytes::copy_from_slice(body)));
    let answer = service.oneshot(request.unwrap()).now_or_never();
    let request = answer.unwrap()?.into_body();
    let text = request.body().segments().unwrap().concat();
    assert_eq!(
        request.headers()[header::CONTENT_LENGTH],
        text.len().to_string()
    );
    let limit = request
        .extensions()
        .get()
        .map(|LimitedOutput(tokens)| *tokens);
    Ok((String::from_utf8_lossy(&text).into_owned(), limit))
}

fn layer() -> LlmRequestLayer {
    LlmRequestLayer::new().with_max_output_tokens(NonZeroU64::new(100))
}

fn limited(path: &str, body: &str) -> (String, Option<u64>) {
    sent(layer(), path, body.as_bytes(), BodyEdits::new()).unwrap()
}

/// Each of these has the limit of the second one at the server; without one it stays the same.
#[track_caller]
fn check(path: &str, bodies: &[(&str, &str)]) {
    for (body, expected) in bodies {
        let (text, limit) = limited(path, body);
        assert_eq!(text, *expected, "{path} {body}");
        assert_eq!(limit, (body != expected).then_some(100), "{path} {body}");
        let off = LlmRequestLayer::new();
        let (text, limit) = sent(off, path, body.as_bytes(), BodyEdits::new()).unwrap();
        assert_eq!((&*text, limit), (*body, None), "off: {path}");
    }
}

#[test]
fn num_predict_above_the_maximum_or_without_a_limit_becomes_the_maximum() {
    let many_digits = format!(r#"{{"options":{{"num_predict":1{}}}}}"#, "0".repeat(200));
    for path in ["/api/chat", "/api/generate"] {
        check(
            path,
            &[
                ("{}", r#"{"options":{"num_predict":100}}"#),
                (
                    r#"{"model":"a"}"#,
                    r#"{"options":{"num_predict":100},"model":"a"}"#,
                ),
                (r#"{"options":null}"#, r#"{"options":{"num_predict":100}}"#),
                (r#"{"options":{}}"#, r#"{"options":{"num_predict":100}}"#),
                (
                    r#"{"options": {"seed":1}}"#,
                    r#"{"options": {"num_predict":100,"seed":1}}"#,
                ),
                (
                    r#"{"options":{"num_predict":null}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict":-1}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict":-2}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict":0}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict":0.5}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict": 101 }}"#,
                    r#"{"options":{"num_predict": 100 }}"#,
                ),
                (
                    r#"{"options":{"num_predict":1e30}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict":-1e999}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (&many_digits, r#"{"options":{"num_predict":100}}"#),
                (
                    r#"{"options":{"num_predict":100}}"#,
                    r#"{"options":{"num_predict":100}}"#,
                ),
                (
                    r#"{"options":{"num_predict":7.9}}"#,
                    r#"{"options":{"num_predict":7.9}}"#,
                ),
                // Ollama refuses these, and ignores other cases of the name.
                (
                    r#"{"options":{"num_predict":"9"}}"#,
                    r#"{"options":{"num_predict":"9"}}"#,
                ),
                (
                    r#"{"options":{"num_predict":true}}"#,
                    r#"{"options":{"num_predict":true}}"#,
                ),
                (r#"{"options":"x"}"#, r#"{"options":"x"}"#),
            ],
        );
    }
}

#[test]
fn the_key_of_each_dialect_becomes_the_maximum() {
    for (path, key) in [
        (CHAT, "max_tokens"),
        ("/v1/completions", "max_tokens"),
        ("/v1/responses", "max_output_tokens"),
        ("/v1/messages", "max_tokens"),
    ] {
        let body = |value: &str| format!(r#"{{"model":"a","{key}":{value}}}"#);
        for value in ["101", "1e30", "null", "0", "-1", "0.5"] {
            check(path, &[(&body(value), &body("100"))]);
        }
        check(
            path,
            &[(&body("100"), &body("100")), (&body("7"), &body("7"))],
        );
        let inserted = format!(r#"{{"{key}":100,"model":"a"}}"#);
        check(path, &[(r#"{"model":"a"}"#, &inserted)]);
        check(path, &[("{}", &format!(r#"{{"{key}":100}}"#))]);
    }
}

#[test]
fn routes_that_generate_nothing_are_not_changed() {
    for path in [
        "/api/embed",
        "/v1/embeddings",
        "/api/show",
        "/v1/messages/count_tokens",
    ] {
        for body in [
            r#"{"model":"a"}"#,
            r#"{"max_tokens":101,"options":{"num_predict":101}}"#,
        ] {
            check(path, &[(body, body)]);
        }
    }
}

#[test]
fn max_completion_tokens_counts_and_ollama_gets_it_as_max_tokens() {
    for (body, other, of_ollama) in [
        (
            r#"{"max_completion_tokens":7}"#,
            r#"{"max_completion_tokens":7}"#,
            r#"{"max_tokens":7,"max_completion_tokens":7}"#,
        ),
        (
            r#"{"max_completion_tokens":101,"model":"a"}"#,
            r#"{"max_completion_tokens":100,"model":"a"}"#,
            r#"{"max_tokens":100,"max_completion_tokens":100,"model":"a"}"#,
        ),
        (
            r#"{"max_completion_tokens":null}"#,
            r#"{"max_completion_tokens":100}"#,
            r#"{"max_tokens":100,"max_completion_tokens":100}"#,
        ),
        (
            r#"{"max_tokens":null,"max_completion_tokens":101}"#,
            r#"{"max_tokens":null,"max_completion_tokens":100}"#,
            r#"{"max_tokens":100,"max_completion_tokens":100}"#,
        ),
        (
            r#"{"max_completion_tokens":1000,"max_tokens":null}"#,
            r#"{"max_completion_tokens":100,"max_tokens":null}"#,
            r#"{"max_completion_tokens":100,"max_tokens":100}"#,
        ),
        (
            r#"{"max_tokens":-1,"max_completion_tokens":9}"#,
            r#"{"max_tokens":9,"max_completion_tokens":9}"#,
            r#"{"max_tokens":9,"max_completion_tokens":9}"#,
        ),
        (
            r#"{"max_tokens":9,"max_completion_tokens":-1}"#,
            r#"{"max_tokens":9,"max_completion_tokens":100}"#,
            r#"{"max_tokens":9,"max_completion_tokens":100}"#,
        ),
        (
            r#"{"max_tokens":500,"max_completion_tokens":null}"#,
            r#"{"max_tokens":100,"max_completion_tokens":null}"#,
            r#"{"max_tokens":100,"max_completion_tokens":null}"#,
        ),
        (
            r#"{"max_tokens":500,"max_completion_tokens":400}"#,
            r#"{"max_tokens":100,"max_completion_tokens":100}"#,
            r#"{"max_tokens":100,"max_completion_tokens":100}"#,
        ),
    ] {
        assert_eq!(limited(CHAT, body).0, other, "{body}");
        let edits = BodyEdits::new().with_max_tokens_of_ollama();
        let (text, _) = sent(layer(), CHAT, body.as_bytes(), edits.clone()).unwrap();
        assert_eq!(text, of_ollama, "{body}");
        let off = LlmRequestLayer::new();
        let (text, _) = sent(off, CHAT, body.as_bytes(), edits).unwrap();
        assert_eq!(text, body, "off");
    }
}

#[test]
fn other_changes_of_the_same_body_find_their_places() {
    for (body, expected) in [
        (
            r#"{}"#,
            r#"{"model":"b","options":{"num_ctx":8,"num_predict":100}}"#,
        ),
        (
            r#"{"model":"a","options":{"num_predict":-1}}"#,
            r#"{"model":"b","options":{"num_ctx":8,"num_predict":100}}"#,
        ),
        (
            r#"{"options":{"num_ctx":4096,"num_predict":123456},"model":"a"}"#,
            r#"{"options":{"num_ctx":8,"num_predict":100},"model":"b"}"#,
        ),
        (
            r#"{"options":{"num_predict":123456,"num_ctx":4096},"model":""}"#,
            r#"{"options":{"num_predict":100,"num_ctx":8},"model":"b"}"#,
        ),
        (
            r#"{"model":null,"options":null,"keep_alive":5}"#,
            r#"{"model":"b","options":{"num_ctx":8,"num_predict":100},"keep_alive":-1}"#,
        ),
        (
            r#"{"model":"a","options":{},"keep_alive":5}"#,
            r#"{"model":"b","options":{"num_ctx":8,"num_predict":100},"keep_alive":-1}"#,
        ),
    ] {
        let edits = BodyEdits::new()
            .with_num_ctx(Some(8))
            .with_model("b".into())
            .with_keep_alive(crate::KeepAlive::Forever);
        let layer = layer().with_default_model(Some("default".into()));
        let (text, _) = sent(layer, "/api/chat", body.as_bytes(), edits).unwrap();
        assert_eq!(text, expected, "{body}");
    }
    let edits = BodyEdits::new()
        .with_model("longer".into())
        .with_max_tokens_of_ollama();
    let body = br#"{"model":"a","max_tokens":null,"max_completion_tokens":5}"#;
    let (text, _) = sent(layer(), CHAT, body, edits).unwrap();
    let expected = r#"{"model":"longer","max_tokens":5,"max_completion_tokens":5}"#;
    assert_eq!(text, expected);
}

fn refusal(path: &str, body: &str) -> StatusCode {
    let error = sent(layer(), path, body.as_bytes(), BodyEdits::new()).unwrap_err();
    Failure::find(&*error).unwrap().status()
}

#[test]
fn a_limit_that_two_servers_could_understand_differently_is_refused_if_there_is_a_maximum() {
    for (path, body) in [
        ("/v1/responses", r#"{"MAX_OUTPUT_TOKENS":5}"#),
        (
            "/v1/responses",
            r#"{"max_output_tokens":5,"max_output_tokens":900}"#,
        ),
        (
            CHAT,
            r#"{"max_completion_tokens":5,"max_completion_tokens":900}"#,
        ),
        (CHAT, r#"{"max_completion_tokens":"900"}"#),
        (CHAT, r#"{"max_tokens":[900]}"#),
        ("/v1/messages", r#"{"max_tokens":"900"}"#),
    ] {
        assert_eq!(refusal(path, body), 400, "{path} {body}");
    }
    for body in [
        r#"{"MAX_OUTPUT_TOKENS":5}"#,
        r#"{"max_output_tokens":"900"}"#,
    ] {
        let off = LlmRequestLayer::new();
        let (text, _) = sent(off, "/v1/responses", body.as_bytes(), BodyEdits::new()).unwrap();
        assert_eq!(text, body, "off");
    }
}

#[test]
fn budgets_reserve_no_more_than_the_maximum() {
    for (body, expected) in [
        (r#"{"max_tokens":5000}"#, Some(100)),
        (r#"{"max_tokens":7}"#, Some(7)),
        (r#"{"max_tokens":0}"#, None),
        ("{}", None),
    ] {
        let keys = Keys::of(Dialect::OpenAi, Operation::Chat);
        let mut scanner = Scanner::new(keys);
        scanner.feed(body.as_bytes()).unwrap();
        let mut scanned = scanner.finish().unwrap();
        let table = EndpointTable::ollama();
        let endpoint = table.endpoints().find(|endpoint| &*endpoint.route == CHAT);
        let mut request = Request::new(ReplayBody::<Full<Bytes>>::from(Bytes::from(
            body.to_owned(),
        )));
        let max = NonZeroU64::new(100).unwrap();
        limit_output(&mut request, endpoint.unwrap(), &mut scanned, true, max).unwrap();
        assert_eq!(scanned.max_tokens, expected, "{body}");
    }
}
