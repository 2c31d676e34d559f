#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

/// A PNG, JPEG, GIF and WebP image, cut after a few bytes.
const IMAGES: [(&str, &str); 4] = [
    ("iVBORw0KGgoAAAANSUhEUg==", "image/png"),
    ("/9j/4AAQSkZJRgABAQ==", "image/jpeg"),
    ("R0lGODlhAQABAIAAAAAAAA==", "image/gif"),
    ("UklGRhoAAABXRUJQVlA4TA==", "image/webp"),
];

fn translated(messages: &Value, extensions: Extensions) -> Result<Value, Untranslatable> {
    let text = messages.to_string();
    let messages = translate(serde_json::from_str(&text).unwrap(), extensions)?;
    Ok(serde_json::to_value(messages).unwrap())
}

#[test]
fn texts_and_roles_pass_unchanged() {
    let messages = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a \"b\" \u{2028} 🦙"},
        {"role": "assistant", "content": ""},
    ]);
    let same = translated(&messages, Extensions::Local).unwrap();
    assert_eq!(same, messages);
}

#[test]
fn images_become_data_urls_of_their_media_type() {
    for (base64, media_type) in IMAGES {
        let messages = json!([{"role": "user", "content": "what?", "images": [base64]}]);
        let expected = json!([{"role": "user", "content": [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": format!("data:{media_type};base64,{base64}")}},
        ]}]);
        assert_eq!(translated(&messages, Extensions::None), Ok(expected));
    }
}

#[test]
fn a_text_that_is_no_image_is_refused_with_its_place() {
    for image in ["***", "", "aGVsbG8gd29ybGQhIQ==", "iVBORw0KGgoAAAAN\"}"] {
        let messages = json!([{"role": "user", "content": ""}, {"images": [IMAGES[0].0, image]}]);
        let refused = translated(&messages, Extensions::Local);
        let text = "messages[1].images[1] is not a PNG, JPEG, GIF or WebP image in base64";
        assert_eq!(refused, Err(Untranslatable::Invalid(text.to_owned())));
    }
}

#[test]
fn results_of_tools_answer_the_earliest_open_call_of_their_tool() {
    let call = |name: &str| json!({"function": {"name": name, "arguments": {"a": 1}}});
    let messages = json!([
        {"role": "assistant", "tool_calls": [call("add"), call("now"), call("add")]},
        {"role": "tool", "tool_name": "now", "content": "12"},
        {"role": "tool", "tool_name": "add", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
    ]);
    let translated = translated(&messages, Extensions::Local).unwrap();
    assert_eq!(
        translated[0]["tool_calls"][2],
        json!({"id": "call_2", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}})
    );
    let ids: Vec<_> = (1..5)
        .map(|at| translated[at]["tool_call_id"].clone())
        .collect();
    assert_eq!(ids, ["call_1", "call_0", "call_2", "call_unknown"]);
}

#[test]
fn ids_that_the_client_repeats_are_kept() {
    let messages = json!([
        {"role": "assistant", "tool_calls": [
            {"id": "x", "function": {"name": "f", "arguments": {}}},
            {"id": "y", "function": {"name": "f"}},
        ]},
        {"role": "tool", "tool_call_id": "x", "content": "1"},
        {"role": "tool", "tool_name": "f", "content": "2"},
    ]);
    let translated = translated(&messages, Extensions::Local).unwrap();
    assert_eq!(translated[1]["tool_call_id"], "x");
    assert_eq!(translated[2]["tool_call_id"], "y");
    assert_eq!(
        translated[0]["tool_calls"][1]["function"]["arguments"],
        "{}"
    );
}

#[test]
fn thoughts_of_earlier_answers_are_sent_to_servers_that_take_them() {
    let messages = json!([{"role": "assistant", "content": "4", "thinking": "2+2"}]);
    let local = translated(&messages, Extensions::Local).unwrap();
    assert_eq!(local[0]["reasoning_content"], "2+2");
    let other = translated(&messages, Extensions::None).unwrap();
    assert_eq!(other, json!([{"role": "assistant", "content": "4"}]));
}
