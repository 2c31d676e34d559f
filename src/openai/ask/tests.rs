#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::models;
use super::*;

fn server(extensions: Extensions) -> Server {
    let server = Server::new("gpu-1:8000".into(), true).with_extensions(extensions);
    let page = br#"{"data":[{"id":"Qwen/Tiny-7B"}]}"#;
    server.set_models(&models::read(page).unwrap());
    server
}

fn with_server<T>(extensions: Extensions, ask: impl Fn(&Translator<'_>) -> T) -> T {
    let server = server(extensions);
    let now = Moment {
        elapsed: Duration::from_millis(1),
        wall: Timestamp::UNIX_EPOCH,
    };
    let server = &server;
    ask(&Translator { server, now })
}

fn chat(request: Value) -> Result<Asked, Untranslatable> {
    with_server(Extensions::Local, |translator| {
        translator.chat(request.to_string().as_bytes())
    })
}

fn generate(request: Value) -> Result<Asked, Untranslatable> {
    with_server(Extensions::Local, |translator| {
        translator.generate(request.to_string().as_bytes())
    })
}

/// The path and body that are sent, and what the answer becomes.
fn sent(asked: Result<Asked, Untranslatable>) -> (&'static str, Value, Answer) {
    match asked.unwrap() {
        Asked::Send(ask) => (
            ask.path,
            serde_json::from_slice(&ask.body).unwrap(),
            ask.answer,
        ),
        other => panic!("not sent: {other:?}"),
    }
}

fn refusal(asked: Result<Asked, Untranslatable>) -> String {
    match asked.unwrap_err() {
        Untranslatable::Invalid(text) => text,
        Untranslatable::NoEquivalent(part) => format!("no {part}"),
    }
}

fn hi() -> Value {
    json!([{"role": "user", "content": "hi"}])
}

#[test]
fn a_chat_is_sent_with_the_id_of_its_model_and_asks_for_the_counts() {
    let request = json!({"model": "qwen/tiny-7b", "messages": hi(), "keep_alive": "5m", "options": {"num_predict": 5}});
    let (path, body, answer) = sent(chat(request));
    assert_eq!(
        (path, answer),
        ("/chat/completions", Answer::Lines(Shape::Chat))
    );
    let expected = json!({
        "model": "Qwen/Tiny-7B",
        "messages": hi(),
        "max_tokens": 5,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    assert_eq!(body, expected);
}

#[test]
fn a_chat_without_streaming_asks_for_one_object() {
    let request = json!({"model": "a", "messages": hi(), "stream": false});
    let (_, body, answer) = sent(chat(request));
    assert_eq!(answer, Answer::Whole(Shape::Chat));
    assert_eq!(
        body,
        json!({"model": "a", "messages": hi(), "stream": false})
    );
}

#[test]
fn tools_and_probabilities_are_sent_as_they_are() {
    let tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let request = json!({"model": "a", "messages": hi(), "tools": tools, "logprobs": true, "top_logprobs": 2});
    let (_, body, _) = sent(chat(request));
    assert_eq!(body["tools"], tools);
    assert_eq!(
        (&body["logprobs"], &body["top_logprobs"]),
        (&json!(true), &json!(2))
    );
    let (_, body, _) = sent(chat(json!({"model": "a", "messages": hi(), "tools": []})));
    assert_eq!(body.get("tools"), None, "some servers refuse an empty list");
}

#[test]
fn format_becomes_response_format() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    for (format, expected) in [
        (json!("json"), json!({"type": "json_object"})),
        (
            schema.clone(),
            json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}),
        ),
        (json!(""), Value::Null),
        (Value::Null, Value::Null),
    ] {
        let (_, body, _) = sent(chat(
            json!({"model": "a", "messages": hi(), "format": format}),
        ));
        assert_eq!(body["response_format"], expected);
    }
    let wrong = chat(json!({"model": "a", "messages": hi(), "format": "yaml"}));
    assert_eq!(
        refusal(wrong),
        r#"invalid format: "\"yaml\""; expected "json" or a valid JSON Schema object"#
    );
}

#[test]
fn think_becomes_an_effort_and_the_switch_of_the_templates() {
    for (think, effort, is_on) in [
        (json!(true), "medium", true),
        (json!(false), "none", false),
        (json!("high"), "high", true),
    ] {
        let request = json!({"model": "a", "messages": hi(), "think": think});
        let (_, body, _) = sent(chat(request.clone()));
        assert_eq!(body["reasoning_effort"], effort);
        assert_eq!(
            body["chat_template_kwargs"],
            json!({"enable_thinking": is_on})
        );
        let standard = with_server(Extensions::None, |translator| {
            translator.chat(request.to_string().as_bytes())
        });
        assert_eq!(sent(standard).1.get("chat_template_kwargs"), None);
    }
    let (_, body, _) = sent(chat(json!({"model": "a", "messages": hi()})));
    assert_eq!(body.get("reasoning_effort"), None);
}

#[test]
fn a_prompt_with_a_system_text_and_images_becomes_a_chat() {
    let png = "iVBORw0KGgoAAAANSUhEUg==";
    let request = json!({"model": "a", "prompt": "what?", "system": "be brief", "images": [png]});
    let (path, body, answer) = sent(generate(request));
    assert_eq!(
        (path, answer),
        ("/chat/completions", Answer::Lines(Shape::Generate))
    );
    assert_eq!(
        body["messages"][0],
        json!({"role": "system", "content": "be brief"})
    );
    assert_eq!(
        body["messages"][1]["content"][1]["image_url"]["url"],
        format!("data:image/png;base64,{png}")
    );
}

#[test]
fn a_raw_prompt_and_one_with_a_suffix_become_completions() {
    for (extra, suffix) in [
        (json!({"raw": true}), Value::Null),
        (json!({"suffix": "end"}), json!("end")),
    ] {
        let mut request = json!({"model": "a", "prompt": "begin", "options": {"top_k": 1}});
        request
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let (path, body, _) = sent(generate(request));
        assert_eq!(path, "/completions");
        assert_eq!(
            (&body["prompt"], &body["suffix"]),
            (&json!("begin"), &suffix)
        );
        assert_eq!(body["top_k"], 1);
    }
}

#[test]
fn parts_of_a_prompt_without_an_equivalent_are_refused_by_name() {
    for (extra, text) in [
        (json!({"template": "{{ .Prompt }}"}), "no template"),
        (json!({"context": [1, 2]}), "no context"),
        (
            json!({"suffix": "x", "system": "y"}),
            "no system together with suffix",
        ),
        (
            json!({"raw": true, "images": ["x"]}),
            "no images with raw or suffix",
        ),
        (
            json!({"raw": true, "logprobs": true}),
            "no logprobs with raw or suffix",
        ),
        (
            json!({"options": {"mirostat": 1}}),
            "no the option mirostat",
        ),
        (
            json!({"raw": true, "system": "x"}),
            "raw mode does not support template, system, or context",
        ),
    ] {
        let mut request = json!({"model": "a", "prompt": "hi"});
        request
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        assert_eq!(refusal(generate(request)), text);
    }
}

#[test]
fn a_request_without_a_prompt_is_answered_as_a_load_and_an_unload_is_not() {
    let loaded = |asked: Result<Asked, Untranslatable>| match asked.unwrap() {
        Asked::Answered(text) => serde_json::from_slice::<Value>(&text).unwrap(),
        other => panic!("not answered: {other:?}"),
    };
    let answer = loaded(generate(json!({"model": "Tiny", "keep_alive": "10m"})));
    assert_eq!(
        answer,
        json!({"model": "Tiny", "created_at": "1970-01-01T00:00:00Z", "response": "", "done": true, "done_reason": "load"})
    );
    let answer = loaded(chat(
        json!({"model": "Tiny", "messages": [], "keep_alive": -1}),
    ));
    assert_eq!(
        answer["message"],
        json!({"role": "assistant", "content": ""})
    );
    for keep_alive in [json!(0), json!("0"), json!("0s"), json!(0.0)] {
        let asked = generate(json!({"model": "a", "keep_alive": keep_alive}));
        assert_eq!(asked, Ok(Asked::Unload), "{keep_alive}");
    }
}

#[test]
fn texts_to_embed_are_sent_and_an_empty_list_needs_no_server() {
    let embed = |request: Value, answer| {
        with_server(Extensions::Local, |translator| {
            translator.embed(request.to_string().as_bytes(), answer)
        })
    };
    let request = json!({"model": "a", "input": ["x", "y"], "dimensions": 32, "truncate": true, "options": {"num_ctx": 1}});
    let (path, body, _) = sent(embed(request, Answer::Embed));
    assert_eq!(path, "/embeddings");
    let expected =
        json!({"model": "a", "input": ["x", "y"], "encoding_format": "float", "dimensions": 32});
    assert_eq!(body, expected);
    let (_, body, _) = sent(embed(
        json!({"model": "a", "prompt": "x"}),
        Answer::Embedding,
    ));
    assert_eq!(body["input"], "x");
    for (request, answer, text) in [
        (
            json!({"model": "a", "input": []}),
            Answer::Embed,
            r#"{"model":"a","embeddings":[]}"#,
        ),
        (
            json!({"model": "a", "prompt": ""}),
            Answer::Embedding,
            r#"{"embedding":[]}"#,
        ),
    ] {
        assert_eq!(embed(request, answer), Ok(Asked::Answered(text.into())));
    }
    let wrong = embed(json!({"model": "a", "input": 3}), Answer::Embed);
    assert_eq!(refusal(wrong), "invalid input type");
}

#[test]
fn a_malformed_request_is_refused_in_the_words_of_ollama() {
    assert_eq!(
        refusal(chat(json!({"messages": hi()}))),
        "model is required"
    );
    let empty = with_server(Extensions::Local, |translator| translator.chat(b""));
    assert_eq!(refusal(empty), "missing request body");
    let wrong = chat(json!({"model": "a", "messages": [{"role": "user", "content": 3}]}));
    assert_eq!(refusal(wrong), "messages[0].content must be a string");
    let not_json = with_server(Extensions::Local, |translator| {
        translator.chat(b"{\"model\":")
    });
    assert!(matches!(not_json, Err(Untranslatable::Invalid(_))));
}
