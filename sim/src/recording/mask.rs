//! Masks the volatile values of an answer.

use super::json::Json;

/// Replaces a masked number or word.
const MASK: &str = "#";

/// Fields whose value differs between answers. The kind of the value is kept, and so are null, an
/// empty text and an empty list, because they are significant.
fn is_volatile(field: &str) -> bool {
    field.ends_with("_duration")
        || field.ends_with("_at")
        || field.ends_with("eval_count")
        || field.starts_with("llama.")
        || field.starts_with("general.")
        || matches!(
            field,
            // Times.
            "created"
            // Identities and sizes.
            | "digest" | "size" | "size_vram" | "parameter_size" | "shape"
            // Generated output.
            | "response" | "content" | "text" | "thinking" | "delta" | "refusal"
            | "token" | "logprob" | "bytes"
            // Counts.
            | "prompt_tokens" | "completion_tokens" | "total_tokens" | "input_tokens"
            | "output_tokens" | "sequence_number"
        )
}

/// Fields with lists of numbers.
fn is_numbers(field: &str) -> bool {
    matches!(field, "context" | "embedding" | "embeddings")
}

/// Ids keep their prefix: `chatcmpl-`, `msg_`.
fn is_id(field: &str) -> bool {
    field == "id" || field.ends_with("_id")
}

/// Masks the volatile values in a JSON value.
pub(super) fn mask(value: &mut Json) {
    match value {
        Json::String(text) => *text = mask_text(text),
        Json::Array(items) => {
            items.iter_mut().for_each(mask);
            items.dedup();
        }
        Json::Object(fields) => fields
            .iter_mut()
            .for_each(|(name, value)| mask_field(name, value)),
        _ => {}
    }
}

fn mask_field(name: &str, value: &mut Json) {
    match value {
        Json::String(text) if is_id(name) => {
            if let Some(at) = text.find(['-', '_']) {
                text.replace_range(at + 1.., MASK);
            }
        }
        Json::Array(_) if is_numbers(name) => mask_numbers(value),
        // The names of tensors.
        Json::Array(items) if name == "tensors" => items.truncate(0),
        Json::String(text) if is_volatile(name) && !text.is_empty() => *text = MASK.into(),
        Json::Number(_) if is_volatile(name) => *value = Json::String("a number".into()),
        Json::Array(items) if is_volatile(name) && items.iter().all(is_number) => {
            mask_numbers(value);
        }
        value => mask(value),
    }
}

fn is_number(value: &Json) -> bool {
    matches!(value, Json::Number(_))
}

fn mask_numbers(value: &mut Json) {
    match value {
        Json::Array(items) => {
            items.iter_mut().for_each(mask_numbers);
            items.dedup();
        }
        value if is_number(value) => *value = Json::String("a number".into()),
        _ => {}
    }
}

/// Masks digests, paths of blobs and addresses in a text.
pub(super) fn mask_text(text: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
    let words = text.split_inclusive(is_end);
    words
        .map(|word| {
            let (word, end) = match word.char_indices().next_back() {
                Some((at, c)) if is_end(c) => word.split_at(at),
                _ => (word, ""),
            };
            mask_word(word) + end
        })
        .collect()
}

fn mask_word(word: &str) -> String {
    if word.starts_with('/')
        && ["/blobs/", "/manifests/"]
            .iter()
            .any(|part| word.contains(part))
    {
        return "/a/path".into();
    }
    let word_without_port = word.trim_end_matches(':');
    if word_without_port.parse::<std::net::SocketAddr>().is_ok() {
        return word.replace(word_without_port, "an-address");
    }
    for start in ["sha256:", "sha256-"] {
        if let Some((before, digest)) = word.split_once(start) {
            let hex = digest.bytes().take_while(u8::is_ascii_hexdigit).count();
            if hex >= 12 {
                return format!("{before}{start}{MASK}{}", &digest[hex..]);
            }
        }
    }
    word.to_owned()
}

/// The kind of a chunk: its text, line by line, without volatile values.
pub(super) fn mask_chunk(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let lines = text.split_inclusive('\n').map(|line| {
        let start = if line.starts_with("data: ") { 6 } else { 0 };
        match serde_json::from_str::<Json>(&line[start..]) {
            Ok(mut json) => {
                mask(&mut json);
                let end = &line[line.trim_end_matches('\n').len()..];
                format!("{}{json}{end}", &line[..start])
            }
            Err(_) => mask_text(line),
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::{mask_chunk, mask_text};

    #[test]
    fn volatile_values_are_masked_and_others_kept() {
        let line = br#"{"id":"chatcmpl-7","model":"m","created":7,"response":"","eval_count":3}"#;
        assert_eq!(
            mask_chunk(line),
            r##"{"id":"chatcmpl-#","model":"m","created":"a number","response":"","eval_count":"a number"}"##
        );
    }

    #[test]
    fn fields_keep_their_order() {
        assert_ne!(
            mask_chunk(br#"{"a":1,"b":2}"#),
            mask_chunk(br#"{"b":2,"a":1}"#)
        );
    }

    #[test]
    fn digests_and_addresses_in_texts_are_masked() {
        let text = "lookup x on 198.51.100.53:53: no \"sha256:0123456789abcdef\", /m/blobs/y";
        assert_eq!(
            mask_text(text),
            "lookup x on an-address: no \"sha256:#\", /a/path"
        );
    }
}
