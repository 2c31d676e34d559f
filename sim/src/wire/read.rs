//! Parses JSON like Go's `encoding/json`, where the difference is visible.

use serde_json::{Map, Value};

/// Parses the first value of a body and ignores the rest. Invalid UTF-8 is replaced; field names
/// may be in any case.
///
/// # Errors
/// The message of Go's error.
pub(crate) fn read(body: &[u8]) -> Result<Value, String> {
    let text = String::from_utf8_lossy(body);
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    match values.next() {
        Some(Ok(Value::Object(fields))) => Ok(Value::Object(with_lower_case_names(fields))),
        Some(Ok(value)) => Ok(value),
        None => Err("EOF".to_owned()),
        Some(Err(_)) => Err(parse_error(body)),
    }
}

fn with_lower_case_names(fields: Map<String, Value>) -> Map<String, Value> {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect()
}

fn parse_error(body: &[u8]) -> String {
    let starts_a_value = |b: u8| b.is_ascii_digit() || b"{[\"-tfn".contains(&b);
    match body.trim_ascii_start().first() {
        Some(&b) if b.is_ascii_control() => {
            format!("invalid character '\\x{b:02x}' looking for beginning of value")
        }
        // Go treats the byte as a code point.
        Some(&b) if !starts_a_value(b) => {
            let c = char::from(b);
            format!("invalid character '{c}' looking for beginning of value")
        }
        _ => "unexpected EOF".to_owned(),
    }
}

/// Go's name for the kind of a value.
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
