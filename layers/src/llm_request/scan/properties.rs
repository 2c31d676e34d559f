//! Property tests: the scanner against serde_json.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{generate, scan, scan_with};
use super::*;

/// Any JSON, with the relevant keys among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Only numbers that serde_json reads back exactly.
        any::<i32>().prop_map(|n| json!(f64::from(n) / 8.0)),
        any::<String>().prop_map(Value::from),
        "[a-z\"\\\\/\u{0}-\u{1f}é漢😀]{0,200}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((any_key(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        "model|name|stream|keep_alive|options|num_ctx|prompt|messages",
        any::<String>()
    ]
}

/// A body as a client might send it; most keys have values of the right type.
fn any_body() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just(json!(null)),
        "[a-zA-Z0-9:\"é😀 ]{0,40}".prop_map(Value::from)
    ];
    let stream = prop_oneof![Just(json!(null)), any::<bool>().prop_map(Value::from)];
    let others = prop::collection::vec((any::<String>(), any_json()), 0..5);
    (name, stream, any_json(), any_json(), others).prop_map(
        |(model, stream, prompt, num_ctx, others)| {
            let mut body = json!({
                "model": model,
                "stream": stream,
                "prompt": prompt,
                "options": { "num_ctx": num_ctx, "seed": 1 },
            });
            for (key, value) in others {
                if generate().find(&key, false).is_none() {
                    body[key] = value;
                }
            }
            body
        },
    )
}

/// Escapes some characters of the strings in a JSON text that need no escape.
fn over_escaped(text: &str, choice: usize) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        match character {
            '\\' => out.extend([character].into_iter().chain(chars.next())),
            '"' => {
                in_string = !in_string;
                out.push(character);
            }
            // The letters after an existing escape may belong to it.
            _ if in_string && !character.is_ascii_hexdigit() && out.len() % 7 >= choice => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
            _ => out.push(character),
        }
    }
    out
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

/// Whether serde_json reads an object at the beginning of these bytes. Like Go, it ignores wrong
/// escapes in skipped values.
fn oracle_takes(bytes: &[u8]) -> bool {
    let mut values =
        serde_json::Deserializer::from_slice(bytes).into_iter::<serde::de::IgnoredAny>();
    let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
    let read = matches!(values.next(), Some(Ok(_)));
    // It also ignores the encoding of skipped values.
    let end = values.byte_offset();
    read && is_object && std::str::from_utf8(&bytes[..end]).is_ok()
}

fn is_syntax(result: &Result<Scanned, ScanError>) -> bool {
    use ScanError::*;
    matches!(
        result,
        Err(Empty | UnexpectedEnd | InvalidCharacter { .. } | InvalidUtf8 | NotAnObject { .. })
    )
}

/// A scan that also finds the prefix of the prompt.
fn scan_prefix(pieces: &[&[u8]], max_blocks: usize) -> PromptPrefix {
    let mut scanner = Scanner::new(generate()).with_prefix_blocks(max_blocks);
    for piece in pieces {
        scanner.feed(piece).unwrap();
    }
    scanner.finish().unwrap().prefix
}

proptest! {
    #[test]
    fn the_prefix_depends_only_on_the_bytes_of_the_prompt(
        prompt in "[a-zé\"]{0,40}",
        repeated in 0..400usize,
        max_blocks in 1..8usize,
        other in 0..5000usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let prompt = json!(prompt.repeat(repeated));
        let len = prompt.to_string().len();
        let alone = format!(r#"{{"prompt":{prompt}}}"#);
        let others = "x".repeat(other);
        let among = format!(r#"{{"suffix":"{others}","options":{{}},"prompt":{prompt},"raw":"{others}"}}"#);
        let whole = scan_prefix(&[alone.as_bytes()], max_blocks);
        prop_assert_eq!(whole.blocks().len(), max_blocks.min(len / 2048));
        let covered = (whole.blocks().len() * 2048) as f64 / len as f64;
        prop_assert!((whole.part_of_prompt() - covered).abs() < 1e-9);
        let split = scan_prefix(&pieces(among.as_bytes(), &cuts), max_blocks);
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn the_result_equals_serdes(
        body in any_body(),
        is_pretty in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = match is_pretty {
            true => serde_json::to_vec_pretty(&body).unwrap(),
            false => serde_json::to_vec(&body).unwrap(),
        };
        let found = scan_with(generate(), &pieces(&bytes, &cuts)).unwrap();
        prop_assert_eq!(found.model.as_deref(), body["model"].as_str().filter(|m| !m.is_empty()));
        prop_assert_eq!(found.stream, body["stream"].as_bool());
        let num_ctx = body["options"]["num_ctx"].as_f64();
        let size = num_ctx.filter(|n| *n >= 4.0).map(|n| n.min(f64::from(i32::MAX)) as u64);
        prop_assert_eq!(found.num_ctx, size);
        let is_as_written = size == num_ctx.map(|n| n as u64);
        prop_assert_eq!(found.places.corrects_num_ctx(), !is_as_written);
        let prompt = &body["prompt"];
        let is_empty = prompt.is_null() || prompt == "" || prompt == &json!([]);
        prop_assert_eq!(found.has_no_prompt, is_empty);
        let span = found.model_value.unwrap();
        let value = &bytes[span.start as usize..span.end as usize];
        prop_assert_eq!(&serde_json::from_slice::<Value>(value).unwrap(), &body["model"]);
        prop_assert_eq!(bytes[found.members_begin as usize - 1], b'{');
    }

    #[test]
    fn escapes_change_nothing(body in any_body(), choice in 0..7usize) {
        let plain = serde_json::to_string(&body).unwrap();
        let escaped = over_escaped(&plain, choice);
        prop_assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), body);
        let (mut a, mut b) = (scan(&plain).unwrap(), scan(&escaped).unwrap());
        // Positions differ.
        (a.model_value, b.model_value) = (None, None);
        (a.places, b.places) = Default::default();
        (a.output, b.output) = Default::default();
        (a.json_bytes, b.json_bytes) = (0, 0);
        prop_assert_eq!(a, b);
    }

    #[test]
    fn a_damaged_body_is_refused_if_serde_refuses_it(
        body in any_body(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut bytes = serde_json::to_vec(&body).unwrap();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len().max(1));
            match how {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => bytes[at] = byte,
                1 => bytes[at] = b"{}[]:,\"\\0-.eu \x1f"[byte as usize % 15],
                2 => { bytes.remove(at); }
                _ => bytes.truncate(at),
            }
        }
        let result = scan_with(generate(), &pieces(&bytes, &cuts));
        prop_assert_eq!(
            !is_syntax(&result), oracle_takes(&bytes),
            "{:?} for {}", result, bytes.escape_ascii()
        );
        // The result does not depend on how the input is split.
        prop_assert_eq!(result, scan(&bytes));
    }

    #[test]
    fn random_bytes_are_refused_if_serde_refuses_them(
        noise in "[{}\\[\\]:,\"\\\\u0-9aeflnrst.+ -]{0,40}",
    ) {
        let bytes = format!("{{\"a\":{noise}");
        let result = scan(&bytes);
        prop_assert_eq!(!is_syntax(&result), oracle_takes(bytes.as_bytes()), "{:?} for {}", result, bytes);
    }

    #[test]
    fn a_duplicate_key_is_refused_in_every_place(
        body in any_body(),
        key in "model|stream|options|prompt|MODEL|Stream|oPtions|PROMPT",
    ) {
        let text = serde_json::to_string(&body).unwrap();
        let doubled = format!("{},{}:null}}", &text[..text.len() - 1], json!(key));
        let key = key.to_lowercase();
        let is_reported = matches!(scan(&doubled), Err(ScanError::AmbiguousKey { key: k }) if k == key);
        prop_assert!(is_reported, "{}", doubled);
    }
}
