#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http_body_util::Full;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use super::super::LlmRequestLayer;
use super::*;
use crate::endpoint::EndpointLayer;
use crate::{BoxError, EndpointTable};

type Body = ReplayBody<Full<Bytes>>;

/// The body and its declared length after these edits.
fn edited(path: &str, layer: &LlmRequestLayer, body: &str, edits: BodyEdits) -> (String, u64) {
    let inner = service_fn(move |mut request: Request<Body>| {
        edits.apply(&mut request);
        async { Ok::<_, BoxError>(request) }
    });
    let service = EndpointLayer::new(EndpointTable::ollama()).layer(layer.layer(inner));
    let request = Request::post(path)
        .header(header::CONTENT_LENGTH, body.len())
        .body(ReplayBody::from(Bytes::from(body.to_owned())))
        .unwrap();
    let request = futures_util::FutureExt::now_or_never(service.oneshot(request));
    let request = request.unwrap().unwrap();
    let length = &request.headers()[header::CONTENT_LENGTH];
    let length = length.to_str().unwrap().parse().unwrap();
    let body = request.body().segments().unwrap().concat();
    (String::from_utf8(body).unwrap(), length)
}

fn with_num_ctx(body: &str, num_ctx: Option<u64>) -> String {
    let edits = BodyEdits::new().with_num_ctx(num_ctx);
    let (edited, length) = edited("/api/chat", &LlmRequestLayer::new(), body, edits);
    assert_eq!(length, edited.len() as u64);
    edited
}

#[test]
fn num_ctx_is_replaced_inserted_or_removed() {
    for (body, set, removed) in [
        (
            r#"{"options": {"seed":1,"num_ctx": 99 },"model":"a"}"#,
            r#"{"options": {"seed":1,"num_ctx": 8192 },"model":"a"}"#,
            r#"{"options": {"seed":1,"num_ctx": null },"model":"a"}"#,
        ),
        (
            r#"{"model":"a","options":{"num_ctx":null}}"#,
            r#"{"model":"a","options":{"num_ctx":8192}}"#,
            r#"{"model":"a","options":{"num_ctx":null}}"#,
        ),
        (
            r#"{"model":"a","options":{ }}"#,
            r#"{"model":"a","options":{"num_ctx":8192 }}"#,
            r#"{"model":"a","options":{ }}"#,
        ),
        (
            r#"{"model":"a","options":{"seed":1}}"#,
            r#"{"model":"a","options":{"num_ctx":8192,"seed":1}}"#,
            r#"{"model":"a","options":{"seed":1}}"#,
        ),
        (
            r#"{"model":"a","options": null}"#,
            r#"{"model":"a","options": {"num_ctx":8192}}"#,
            r#"{"model":"a","options": null}"#,
        ),
        (
            r#" { "model":"a"}"#,
            r#" {"options":{"num_ctx":8192}, "model":"a"}"#,
            r#" { "model":"a"}"#,
        ),
        ("{}", r#"{"options":{"num_ctx":8192}}"#, "{}"),
    ] {
        assert_eq!(with_num_ctx(body, Some(8192)), set);
        assert_eq!(with_num_ctx(body, None), removed);
    }
}

#[test]
fn a_value_that_the_server_refuses_stays() {
    for body in [
        r#"{"options":{"num_ctx":"8192"}}"#,
        r#"{"options":{"num_ctx":[1]}}"#,
        r#"{"options":[{"num_ctx":1}]}"#,
        r#"{"options":"none"}"#,
    ] {
        assert_eq!(with_num_ctx(body, Some(1)), body);
    }
}

#[test]
fn only_bodies_of_ollamas_dialect_are_changed() {
    let edits = BodyEdits::new()
        .with_num_ctx(Some(1))
        .with_keep_alive(Duration::from_secs(60));
    let body = r#"{"model":"a","keep_alive":-1,"options":{"num_ctx":2}}"#;
    let layer = LlmRequestLayer::new();
    for (path, is_changed) in [
        ("/api/generate", true),
        ("/api/embed", true),
        ("/v1/chat/completions", false),
        ("/v1/messages", false),
        ("/api/show", false),
    ] {
        let (edited, _) = edited(path, &layer, body, edits.clone());
        assert_eq!(edited != body, is_changed, "{path}: {edited}");
    }
}

#[test]
fn a_model_can_be_kept_for_ever() {
    let layer = LlmRequestLayer::new();
    let body = r#"{"model":"a","keep_alive":"5m"}"#;
    for (keep_alive, expected) in [
        (KeepAlive::Forever, r#"{"model":"a","keep_alive":-1}"#),
        (KeepAlive::Unclear, body),
    ] {
        let edits = BodyEdits::new().with_keep_alive(keep_alive);
        let (edited, length) = edited("/api/generate", &layer, body, edits);
        assert_eq!((&*edited, length), (expected, expected.len() as u64));
    }
}

#[test]
fn the_model_is_replaced_in_every_dialect_where_it_is_named() {
    let layer = LlmRequestLayer::new().with_default_model(Some("d".into()));
    for (path, body, expected) in [
        (
            "/api/chat",
            r#"{"model" : "a\u0062","n":1}"#,
            r#"{"model" : "x\"y","n":1}"#,
        ),
        ("/api/show", r#"{"name":"a"}"#, r#"{"name":"x\"y"}"#),
        (
            "/api/show",
            r#"{"name":"a","model":"b"}"#,
            r#"{"name":"a","model":"x\"y"}"#,
        ),
        (
            "/v1/chat/completions",
            r#"{"n":[{"model":"c"}],"model":"a"}"#,
            r#"{"n":[{"model":"c"}],"model":"x\"y"}"#,
        ),
        ("/v1/messages", r#"{"model":"a"}"#, r#"{"model":"x\"y"}"#),
        ("/v1/responses", r#"{"model":"a"}"#, r#"{"model":"x\"y"}"#),
        ("/api/chat", r#"{"n":1}"#, r#"{"model":"x\"y","n":1}"#),
        ("/api/chat", "{}", r#"{"model":"x\"y"}"#),
        ("/api/chat", r#"{"model":""}"#, r#"{"model":"x\"y"}"#),
        ("/api/show", r#"{"verbose":true}"#, r#"{"verbose":true}"#),
    ] {
        let edits = BodyEdits::new().with_model("x\"y".into());
        let (edited, length) = edited(path, &layer, body, edits);
        assert_eq!(edited, expected, "{path}");
        assert_eq!(length, expected.len() as u64);
    }
}

#[test]
fn edits_can_be_applied_one_after_the_other() {
    let both = [
        r#"{"options":{"num_ctx":1},"model":"a","keep_alive":5}"#,
        r#"{"keep_alive":5,"model":"a"}"#,
        r#"{"model":"a","keep_alive":5,"options":{}}"#,
    ];
    for body in both {
        let route = EndpointTable::ollama().look_up(&http::Method::POST, "/api/chat");
        let mut request = Request::new(Body::from(Bytes::from(body)));
        route.put_into(request.extensions_mut());
        let inner = service_fn(|request: Request<Body>| async { Ok::<_, BoxError>(request) });
        let scanned = LlmRequestLayer::new().layer(inner).oneshot(request);
        let request = futures_util::FutureExt::now_or_never(scanned)
            .unwrap()
            .unwrap();
        let first = BodyEdits::new().with_model("longer".into());
        let second = BodyEdits::new().with_model("b".into());
        let third = BodyEdits::new()
            .with_num_ctx(Some(42))
            .with_keep_alive(Duration::from_secs(700));
        let mut all = request;
        for edits in [&first, &third, &second, &first] {
            edits.apply(&mut all);
        }
        let llm = LlmRequest::of(all.extensions()).unwrap();
        assert_eq!(llm.model.as_deref(), Some("longer"));
        assert_eq!(Some(llm.body_bytes), all.body().len());
        let edited: Value =
            serde_json::from_slice(&all.body().segments().unwrap().concat()).unwrap();
        let expected = json!({"model": "longer", "keep_alive": 700, "options": {"num_ctx": 42}});
        assert_eq!(edited, expected, "{body}");
    }
}

proptest! {
    #[test]
    fn the_edited_body_is_the_same_json_with_other_values(
        // In any order: keys of a `Value` are sorted.
        members in Just(vec![
            r#""model":"a""#, r#""model":null"#, r#""prompt":"}{\"num_ctx\":1""#, r#""keep_alive":"1h""#,
            r#""options":{"a":[{"num_ctx":7}],"num_ctx":12,"b":1}"#, r#""options":{}"#,
            r#""options":{"stop":["x"]}"#, r#""options" : null"#,
        ]).prop_shuffle(),
        count in 0..8usize,
        num_ctx in prop::option::of(1..100_000u64),
        seconds in 0..100_000u64,
        has_default in any::<bool>(),
    ) {
        let mut chosen: Vec<&str> = Vec::new();
        for member in members.into_iter().take(count) {
            let key = &member[..5];
            if !chosen.iter().any(|other| other.starts_with(key)) {
                chosen.push(member);
            }
        }
        let body = format!("{{{}}}", chosen.join(", "));
        let default = has_default.then(|| "by default".into());
        let layer = LlmRequestLayer::new().with_default_model(default);
        let edits = BodyEdits::new()
            .with_num_ctx(num_ctx)
            .with_keep_alive(Duration::from_secs(seconds));
        let (edited, length) = edited("/api/generate", &layer, &body, edits);
        prop_assert_eq!(length, edited.len() as u64);

        let mut expected: Value = serde_json::from_str(&body).unwrap();
        if has_default && expected.get("model").is_none_or(Value::is_null) {
            expected["model"] = json!("by default");
        }
        if expected.get("keep_alive").is_some() {
            expected["keep_alive"] = json!(seconds);
        }
        if let Some(num_ctx) = num_ctx {
            if expected.get("options").is_none_or(Value::is_null) {
                expected["options"] = json!({});
            }
            expected["options"]["num_ctx"] = json!(num_ctx);
        } else if let Some(value) = expected.pointer_mut("/options/num_ctx") {
            *value = Value::Null;
        }
        let edited: Value = serde_json::from_str(&edited).unwrap();
        prop_assert_eq!(edited, expected, "{}", body);
    }
}
