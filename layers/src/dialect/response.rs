//! The event of a failed stream of OpenAI's Responses.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

/// The state of a stream of [`Responses`](crate::Dialect::Responses) before it failed.
///
/// The error event repeats the `response` object. Client libraries expect all fields that OpenAI
/// requires, so unknown fields get plausible values.
#[derive(Clone, Debug, Default)]
pub struct ResponseSoFar {
    response: Map<String, Value>,
    sequence_number: u64,
}

/// The fields have the order of OpenAI's own events.
#[derive(Serialize)]
pub(super) struct Failed {
    r#type: &'static str,
    sequence_number: u64,
    response: Map<String, Value>,
}

impl ResponseSoFar {
    /// `first` is the data of the stream's first event, `response.created`; `sequence_number` is
    /// that of the next event.
    ///
    /// ```
    /// use llamatower_layers::Dialect;
    /// use llamatower_layers::dialect::ResponseSoFar;
    /// use llamatower_layers::frames::Framing;
    ///
    /// let so_far = ResponseSoFar::new(br#"{"response":{"id":"resp_1"}}"#, 4);
    /// let frame = Dialect::Responses.error_frame(Framing::Sse, "gone", &so_far);
    /// let frame = str::from_utf8(&frame).expect("text");
    /// assert!(frame.starts_with("event: response.failed\ndata: "));
    /// assert!(frame.contains(r#""sequence_number":4"#) && frame.contains(r#""id":"resp_1""#));
    /// ```
    pub fn new(first: &[u8], sequence_number: u64) -> Self {
        let first = serde_json::from_slice(first).unwrap_or(Value::Null);
        let response = match first {
            Value::Object(mut event) => event.remove("response"),
            _ => None,
        };
        let response = match response {
            Some(Value::Object(response)) => response,
            _ => Map::new(),
        };
        Self {
            response,
            sequence_number,
        }
    }

    /// Sets the model if the stream has not named it.
    #[must_use]
    pub fn or_model(mut self, model: &str) -> Self {
        let entry = self.response.entry("model");
        entry.or_insert_with(|| model.into());
        self
    }

    pub(super) fn failed(&self, message: &str) -> Failed {
        let mut response = self.response.clone();
        response.insert("status".into(), "failed".into());
        let error = json!({"code": "server_error", "message": message});
        response.insert("error".into(), error);
        for (field, value) in required() {
            response.entry(field).or_insert(value);
        }
        Failed {
            r#type: "response.failed",
            sequence_number: self.sequence_number,
            response,
        }
    }
}

/// The fields that OpenAI requires in each response, with their initial values.
fn required() -> [(&'static str, Value); 14] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    [
        ("id", "resp_unknown".into()),
        ("object", "response".into()),
        ("created_at", now.map_or(0, |time| time.as_secs()).into()),
        ("incomplete_details", Value::Null),
        ("instructions", Value::Null),
        ("metadata", json!({})),
        ("model", "unknown".into()),
        ("output", json!([])),
        ("parallel_tool_calls", true.into()),
        ("temperature", Value::Null),
        ("tool_choice", "auto".into()),
        ("tools", json!([])),
        ("top_p", Value::Null),
        ("usage", Value::Null),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(first: &str) -> Value {
        let so_far = ResponseSoFar::new(first.as_bytes(), 3).or_model("tiny");
        serde_json::to_value(so_far.failed("gone")).expect("JSON")
    }

    #[test]
    fn the_failed_response_repeats_the_created_one() {
        let first = r#"{"type":"response.created","response":{"id":"resp_7","created_at":9,"model":"small","status":"in_progress","tools":[1]}}"#;
        let event = failed(first);
        assert_eq!(event["type"], "response.failed");
        assert_eq!(event["sequence_number"], 3);
        let response = &event["response"];
        let reported = ["id", "created_at", "model", "status", "tools", "object"];
        assert_eq!(
            reported.map(|field| response[field].clone()),
            [
                "resp_7".into(),
                9.into(),
                "small".into(),
                "failed".into(),
                json!([1]),
                "response".into()
            ]
        );
        assert_eq!(
            response["error"],
            json!({"code": "server_error", "message": "gone"})
        );
    }

    #[test]
    fn a_failure_before_the_first_event_has_all_required_fields() {
        for first in ["", "{\"response\":{\"id\"", "[]", "{\"response\":1}"] {
            let response = &failed(first)["response"];
            for (field, _) in required() {
                assert!(response.get(field).is_some(), "{field} after {first:?}");
            }
            assert_eq!(
                (&response["model"], &response["status"]),
                (&json!("tiny"), &json!("failed"))
            );
        }
    }
}
