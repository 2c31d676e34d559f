//! The messages of a chat: images, tool calls and their results.

use std::collections::VecDeque;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::chunk::Text;
use super::error::Untranslatable;
use super::server::Extensions;

/// A message of a native chat.
#[derive(Debug, Default, Deserialize)]
pub(super) struct NativeMessage<'a> {
    #[serde(borrow, default)]
    role: Option<Text<'a>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, default)]
    images: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<NativeCall<'a>>>,
    #[serde(borrow, default)]
    tool_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    tool_call_id: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
struct NativeCall<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    function: NativeFunction<'a>,
}

#[derive(Debug, Deserialize)]
struct NativeFunction<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

/// A message in OpenAI's dialect.
#[derive(Debug)]
pub(super) struct Message<'a> {
    role: Text<'a>,
    /// `None` is the empty text.
    content: Option<&'a RawValue>,
    images: Vec<Image<'a>>,
    /// llama.cpp and vLLM take the thoughts of earlier answers.
    thinking: Option<&'a RawValue>,
    calls: Vec<Call<'a>>,
    answers_call: Option<Box<str>>,
}

#[derive(Debug)]
struct Call<'a> {
    id: Box<str>,
    name: Text<'a>,
    /// An object.
    arguments: &'a str,
}

/// An image in base64.
#[derive(Debug)]
struct Image<'a> {
    media_type: &'static str,
    base64: Text<'a>,
}

/// Translates the messages of a chat.
///
/// OpenAI's results of tools name the call that they answer, Ollama's only the tool. So a result
/// answers the earliest open call of its tool.
pub(super) fn translate<'a>(
    messages: Vec<NativeMessage<'a>>,
    extensions: Extensions,
) -> Result<Vec<Message<'a>>, Untranslatable> {
    let mut open: VecDeque<(Box<str>, Box<str>)> = VecDeque::new();
    let mut calls_so_far = 0;
    let mut translated = Vec::with_capacity(messages.len());
    for (place, native) in messages.into_iter().enumerate() {
        let role = native.role.unwrap_or(Text("".into()));
        let mut message = Message {
            content: text(native.content, &format!("messages[{place}].content"))?,
            images: images(native.images, &format!("messages[{place}].images"))?,
            thinking: match extensions {
                Extensions::Local => text(native.thinking, &format!("messages[{place}].thinking"))?,
                Extensions::None => None,
            },
            calls: Vec::new(),
            answers_call: None,
            role,
        };
        for call in native.tool_calls.into_iter().flatten() {
            let id = call.id.filter(|id| !id.0.is_empty());
            let id: Box<str> = match id {
                Some(id) => (&*id.0).into(),
                None => format!("call_{calls_so_far}").into(),
            };
            calls_so_far += 1;
            open.push_back((id.clone(), (&*call.function.name.0).into()));
            message.calls.push(Call {
                id,
                arguments: arguments(call.function.arguments)?,
                name: call.function.name,
            });
        }
        if &*message.role.0 == "tool" {
            let name = native.tool_name.as_ref().map(|name| &*name.0);
            let given = native.tool_call_id.filter(|id| !id.0.is_empty());
            message.answers_call = Some(match given {
                Some(id) => {
                    open.retain(|(known, _)| **known != *id.0);
                    (&*id.0).into()
                }
                None => answered(&mut open, name),
            });
        }
        translated.push(message);
    }
    Ok(translated)
}

/// The call that a result without an id answers.
fn answered(open: &mut VecDeque<(Box<str>, Box<str>)>, tool: Option<&str>) -> Box<str> {
    let place = open.iter().position(|(_, name)| Some(&**name) == tool);
    let call = open.remove(place.unwrap_or(0));
    call.map_or_else(|| "call_unknown".into(), |(id, _)| id)
}

/// The message of a prompt.
pub(super) fn of_prompt<'a>(
    prompt: Option<&'a RawValue>,
    images: Option<Vec<Text<'a>>>,
) -> Result<Message<'a>, Untranslatable> {
    Ok(Message {
        images: self::images(images, "images")?,
        ..of_text("user", prompt)
    })
}

/// A message of a text, which is JSON.
pub(super) fn of_text<'a>(role: &'static str, content: Option<&'a RawValue>) -> Message<'a> {
    Message {
        role: Text(role.into()),
        content,
        images: Vec::new(),
        thinking: None,
        calls: Vec::new(),
        answers_call: None,
    }
}

/// A text as JSON; `None` if it is missing or empty.
pub(super) fn text<'a>(
    value: Option<&'a RawValue>,
    name: &str,
) -> Result<Option<&'a RawValue>, Untranslatable> {
    match value.map(RawValue::get) {
        None | Some("null" | r#""""#) => Ok(None),
        Some(text) if text.starts_with('"') => Ok(value),
        Some(_) => Err(Untranslatable::Invalid(format!("{name} must be a string"))),
    }
}

fn arguments(arguments: Option<&RawValue>) -> Result<&str, Untranslatable> {
    match arguments.map(RawValue::get) {
        None | Some("null") => Ok("{}"),
        Some(object) if object.starts_with('{') => Ok(object),
        Some(_) => Err(Untranslatable::Invalid(
            "the arguments of a tool call must be an object".to_owned(),
        )),
    }
}

fn images<'a>(images: Option<Vec<Text<'a>>>, name: &str) -> Result<Vec<Image<'a>>, Untranslatable> {
    let images = images.into_iter().flatten().enumerate();
    let image = |(place, base64): (usize, Text<'a>)| match media_type(&base64.0) {
        Some(media_type) => Ok(Image { media_type, base64 }),
        None => Err(Untranslatable::Invalid(format!(
            "{name}[{place}] is not a PNG, JPEG, GIF or WebP image in base64"
        ))),
    };
    images.map(image).collect()
}

/// The media type by the first bytes of an image, in base64; `None` if the text is not such an
/// image.
fn media_type(base64: &str) -> Option<&'static str> {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    if !base64.bytes().all(is_base64) {
        return None;
    }
    let head = STANDARD.decode(base64.get(..16)?).ok()?;
    match &head[..] {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => Some("image/webp"),
        _ => None,
    }
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", &*self.role.0)?;
        match (self.images.is_empty(), self.content) {
            (false, _) => map.serialize_entry("content", &Parts(self))?,
            (true, Some(content)) => map.serialize_entry("content", content)?,
            (true, None) => map.serialize_entry("content", "")?,
        }
        if let Some(thinking) = self.thinking {
            map.serialize_entry("reasoning_content", thinking)?;
        }
        if !self.calls.is_empty() {
            map.serialize_entry("tool_calls", &self.calls)?;
        }
        if let Some(id) = &self.answers_call {
            map.serialize_entry("tool_call_id", &**id)?;
        }
        map.end()
    }
}

/// The content of a message with images.
struct Parts<'a>(&'a Message<'a>);

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Part<'a> {
            Text { text: &'a RawValue },
            ImageUrl { image_url: ImageUrl<'a> },
        }
        #[derive(Serialize)]
        struct ImageUrl<'a> {
            url: DataUrl<'a>,
        }
        let mut parts = serializer.serialize_seq(None)?;
        if let Some(text) = self.0.content {
            parts.serialize_element(&Part::Text { text })?;
        }
        for image in &self.0.images {
            let url = DataUrl(image);
            parts.serialize_element(&Part::ImageUrl {
                image_url: ImageUrl { url },
            })?;
        }
        parts.end()
    }
}

/// An image as the text of a URL (RFC 2397); it is written without a copy.
struct DataUrl<'a>(&'a Image<'a>);

impl fmt::Display for DataUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", self.0.media_type, self.0.base64.0)
    }
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Call<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a str,
            arguments: &'a str,
        }
        let function = Function {
            name: &self.name.0,
            arguments: self.arguments,
        };
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("id", &*self.id)?;
        map.serialize_entry("type", "function")?;
        map.serialize_entry("function", &function)?;
        map.end()
    }
}

#[cfg(test)]
mod tests;
