//! The body of a request for a server.

use std::borrow::Cow;

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::messages::Message;

/// The body of a request in OpenAI's dialect.
#[derive(Debug, Default)]
pub(super) struct Body<'a>(Vec<(&'static str, Member<'a>)>);

/// A member's value.
#[derive(Debug)]
pub(super) enum Member<'a> {
    Raw(&'a RawValue),
    Text(Cow<'a, str>),
    Json(Value),
    Messages(Vec<Message<'a>>),
}

impl<'a> Body<'a> {
    pub(super) fn put(&mut self, name: &'static str, value: Member<'a>) {
        self.0.push((name, value));
    }

    pub(super) fn into_bytes(self) -> Bytes {
        // Texts, numbers and what was JSON before: this cannot fail.
        serde_json::to_vec(&self).unwrap_or_default().into()
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            match value {
                Member::Raw(value) => map.serialize_entry(name, value)?,
                Member::Text(value) => map.serialize_entry(name, value)?,
                Member::Json(value) => map.serialize_entry(name, value)?,
                Member::Messages(value) => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}
