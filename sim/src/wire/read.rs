//! JSON as Go's `encoding/json` reads it, where that shows.

use serde_json::{Map, Value};

/// Reads the first value of a body; what follows it is ignored. Bytes that are not UTF-8 are
/// replaced, the names of fields taken in any case.
///
/// # Errors
/// The text of Go's error.
pub(crate) fn read(body: &[u8]) -> Result<Value, String> {
    let text = String::from_utf8_lossy(body);
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    match values.next() {
        Some(Ok(Value::Object(fields))) => Ok(Value::Object(in_small_letters(fields))),
        Some(Ok(value)) => Ok(value),
        None => Err("EOF".to_owned()),
        Some(Err(_)) => Err(complaint(body)),
    }
}

fn in_small_letters(fields: Map<String, Value>) -> Map<String, Value> {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect()
}

fn complaint(body: &[u8]) -> String {
    let starts_a_value = |b: u8| b.is_ascii_digit() || b"{[\"-tfn".contains(&b);
    match body.trim_ascii_start().first() {
        Some(&b) if b.is_ascii_control() => {
            format!("invalid character '\\x{b:02x}' looking for beginning of value")
        }
        // Go takes the byte for a code point.
        Some(&b) if !starts_a_value(b) => {
            let c = char::from(b);
            format!("invalid character '{c}' looking for beginning of value")
        }
        _ => "unexpected EOF".to_owned(),
    }
}

/// What Go calls the kind of a value.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
