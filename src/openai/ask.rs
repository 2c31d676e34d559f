//! Requests of Ollama's dialect as requests of OpenAI's.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::body::{Body, Member};
use super::chunk::Text;
use super::error::Untranslatable;
use super::line::{Moment, Shape};
use super::messages::{self, NativeMessage};
use super::options;
use super::server::{Extensions, Server};
use super::whole::loaded;

/// What becomes of a native request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is sent to the server.
    Send(Ask),
    /// The server need not be asked; this is the answer, as JSON.
    Answered(Bytes),
    /// It is a request to unload the model, which OpenAI's dialect does not have.
    Unload,
}

/// A request for the server, and what its answer becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The path below `/v1`.
    pub path: &'static str,
    /// The body, as JSON.
    pub body: Bytes,
    /// The model as the client wrote it.
    pub model: Box<str>,
    /// What the answer becomes.
    pub answer: Answer,
}

/// What the server's answer becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Lines of a stream.
    Lines(Shape),
    /// One object.
    Whole(Shape),
    /// That of `/api/embed`.
    Embed,
    /// That of `/api/embeddings`.
    Embedding,
}

impl Answer {
    /// The text for a missing model, in Ollama's words for the route.
    pub(super) fn missing_model(self, model: &str) -> String {
        match self {
            Self::Lines(_) | Self::Whole(_) => format!("model '{model}' not found"),
            Self::Embed | Self::Embedding => {
                format!("model \"{model}\" not found, try pulling it first")
            }
        }
    }
}

/// The members that a chat and a completion have in common.
#[derive(Debug, Deserialize)]
struct Common<'a> {
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default)]
    format: Option<&'a RawValue>,
    #[serde(borrow, default)]
    options: Option<&'a RawValue>,
    #[serde(borrow, default)]
    think: Option<&'a RawValue>,
    #[serde(borrow, default)]
    keep_alive: Option<&'a RawValue>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Chat<'a> {
    #[serde(borrow, default)]
    messages: Option<Vec<NativeMessage<'a>>>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct Generate<'a> {
    #[serde(borrow, default)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, default)]
    suffix: Option<&'a RawValue>,
    #[serde(borrow, default)]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    template: Option<&'a RawValue>,
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    images: Option<Vec<Text<'a>>>,
    #[serde(default)]
    raw: Option<bool>,
}

/// Translates requests for one server.
#[derive(Clone, Copy, Debug)]
pub struct Translator<'a> {
    /// The server.
    pub server: &'a Server,
    /// The time of the request.
    pub now: Moment,
}

impl Translator<'_> {
    /// Translates a request of `/api/chat`.
    ///
    /// # Errors
    /// It is wrong, or has no equivalent.
    pub fn chat(&self, request: &[u8]) -> Result<Asked, Untranslatable> {
        let common: Common<'_> = read(request)?;
        let Chat { messages, tools } = read(request)?;
        let model = model_of(&common)?;
        let messages = messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(self.load_or_unload(Shape::Chat, &common, model));
        }
        let messages = messages::translate(messages, self.server.extensions())?;
        let mut body = self.begin(model);
        body.put("messages", Member::Messages(messages));
        let has_items = |tools: &&RawValue| !matches!(tools.get(), "null" | "[]");
        if let Some(tools) = tools.filter(has_items) {
            body.put("tools", Member::Raw(tools));
        }
        self.put_thinking(&common, &mut body)?;
        put_logprobs(&common, &mut body);
        self.finish(Shape::Chat, "/chat/completions", &common, body)
    }

    /// Translates a request of `/api/generate`.
    ///
    /// A prompt becomes a chat of one message, to which the server applies the model's template, as
    /// Ollama does. A raw prompt, and one with a suffix, become a completion.
    ///
    /// # Errors
    /// It is wrong, or has no equivalent.
    pub fn generate(&self, request: &[u8]) -> Result<Asked, Untranslatable> {
        let common: Common<'_> = read(request)?;
        let generate: Generate<'_> = read(request)?;
        let model = model_of(&common)?;
        let prompt = messages::text(generate.prompt, "prompt")?;
        let suffix = messages::text(generate.suffix, "suffix")?;
        let system = messages::text(generate.system, "system")?;
        if prompt.is_none() && suffix.is_none() && generate.images.is_none() {
            return Ok(self.load_or_unload(Shape::Generate, &common, model));
        }
        let template = messages::text(generate.template, "template")?;
        let has_context = generate
            .context
            .is_some_and(|context| !matches!(context.get(), "null" | "[]"));
        let is_raw = generate.raw == Some(true);
        if is_raw && (template.is_some() || system.is_some() || has_context) {
            // Ollama's text.
            let text = "raw mode does not support template, system, or context";
            return Err(Untranslatable::Invalid(text.to_owned()));
        }
        for (name, is_there) in [("template", template.is_some()), ("context", has_context)] {
            if is_there {
                return Err(Untranslatable::no(name));
            }
        }
        let mut body = self.begin(model);
        if is_raw || suffix.is_some() {
            for (name, is_there) in [
                ("system together with suffix", system.is_some()),
                (
                    "images with raw or suffix",
                    generate.images.is_some_and(|images| !images.is_empty()),
                ),
                ("logprobs with raw or suffix", common.logprobs == Some(true)),
            ] {
                if is_there {
                    return Err(Untranslatable::no(name));
                }
            }
            match prompt {
                Some(prompt) => body.put("prompt", Member::Raw(prompt)),
                None => body.put("prompt", Member::Text("".into())),
            }
            if let Some(suffix) = suffix {
                body.put("suffix", Member::Raw(suffix));
            }
            return self.finish(Shape::Generate, "/completions", &common, body);
        }
        let system = system.map(|system| messages::of_text("system", Some(system)));
        let user = messages::of_prompt(prompt, generate.images)?;
        let messages = system.into_iter().chain([user]).collect();
        body.put("messages", Member::Messages(messages));
        self.put_thinking(&common, &mut body)?;
        put_logprobs(&common, &mut body);
        self.finish(Shape::Generate, "/chat/completions", &common, body)
    }

    /// Translates a request of `/api/embed` or `/api/embeddings`, as `answer` says.
    ///
    /// # Errors
    /// It is wrong.
    pub fn embed(&self, request: &[u8], answer: Answer) -> Result<Asked, Untranslatable> {
        #[derive(Deserialize)]
        struct Embed<'a> {
            #[serde(borrow, default)]
            model: Option<Text<'a>>,
            #[serde(borrow, default)]
            input: Option<&'a RawValue>,
            #[serde(borrow, default)]
            prompt: Option<&'a RawValue>,
            #[serde(borrow, default)]
            dimensions: Option<&'a RawValue>,
        }
        let embed: Embed<'_> = read(request)?;
        let model = embed.model.filter(|model| !model.0.is_empty());
        let model = model.ok_or_else(no_model)?;
        let input = match answer {
            Answer::Embedding => messages::text(embed.prompt, "prompt")?,
            _ => embed.input.filter(|input| input.get() != "null"),
        };
        let Some(input) = input.filter(|input| input.get() != "[]") else {
            let quoted = serde_json::to_string(&*model.0).unwrap_or_default();
            return Ok(Asked::Answered(match answer {
                Answer::Embedding => Bytes::from_static(br#"{"embedding":[]}"#),
                _ => format!(r#"{{"model":{quoted},"embeddings":[]}}"#).into(),
            }));
        };
        if !input.get().starts_with(['"', '[']) {
            return Err(Untranslatable::Invalid("invalid input type".to_owned()));
        }
        let mut body = self.begin(&model.0);
        body.put("input", Member::Raw(input));
        body.put("encoding_format", Member::Text("float".into()));
        let dimensions = embed.dimensions;
        if let Some(dimensions) = dimensions.filter(|value| !matches!(value.get(), "null" | "0")) {
            body.put("dimensions", Member::Raw(dimensions));
        }
        Ok(Asked::Send(Ask {
            path: "/embeddings",
            body: body.into_bytes(),
            model: (&*model.0).into(),
            answer,
        }))
    }

    fn begin<'b>(&self, model: &str) -> Body<'b> {
        let mut body = Body::default();
        let id = self.server.id_of(model);
        body.put("model", Member::Text(Cow::Owned(id.into())));
        body
    }

    /// Adds the rest, and makes the request.
    fn finish<'b>(
        &self,
        shape: Shape,
        path: &'static str,
        common: &Common<'b>,
        mut body: Body<'b>,
    ) -> Result<Asked, Untranslatable> {
        options::put(common.options, self.server.extensions(), &mut body)?;
        if let Some(format) = response_format(common.format)? {
            if path == "/completions" && self.server.extensions() == Extensions::None {
                return Err(Untranslatable::no("format with raw or suffix"));
            }
            body.put("response_format", Member::Json(format));
        }
        let streams = common.stream.unwrap_or(true);
        body.put("stream", Member::Json(streams.into()));
        if streams {
            body.put(
                "stream_options",
                Member::Json(json!({"include_usage": true})),
            );
        }
        Ok(Asked::Send(Ask {
            path,
            body: body.into_bytes(),
            model: model_of(common)?.into(),
            answer: match streams {
                true => Answer::Lines(shape),
                false => Answer::Whole(shape),
            },
        }))
    }

    /// `think` as `reasoning_effort`, and for vLLM and llama.cpp also as the switch of the templates
    /// that have one. A server that knows neither thinks as it does by default.
    fn put_thinking(&self, common: &Common<'_>, body: &mut Body<'_>) -> Result<(), Untranslatable> {
        let think = common.think.map(RawValue::get);
        let think = think.map(|text| serde_json::from_str(text).unwrap_or(Value::Null));
        let (effort, is_on) = match think {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Bool(true)) => ("medium".to_owned(), true),
            Some(Value::Bool(false)) => ("none".to_owned(), false),
            Some(Value::String(level)) => (level, true),
            Some(_) => {
                let text = "think must be a boolean or a string (\"high\", \"medium\", \"low\")";
                return Err(Untranslatable::Invalid(text.to_owned()));
            }
        };
        body.put("reasoning_effort", Member::Text(effort.into()));
        if self.server.extensions() == Extensions::Local {
            let switch = json!({"enable_thinking": is_on});
            body.put("chat_template_kwargs", Member::Json(switch));
        }
        Ok(())
    }

    /// A request without a prompt. The model is always in the server's memory.
    fn load_or_unload(&self, shape: Shape, common: &Common<'_>, model: &str) -> Asked {
        let keep_alive = common.keep_alive.map(RawValue::get);
        let is_zero = |text: &str| {
            let number = text.trim_matches('"').trim_end_matches(['s', 'm', 'h']);
            number.parse() == Ok(0.0)
        };
        match keep_alive.is_some_and(is_zero) {
            true => Asked::Unload,
            false => Asked::Answered(loaded(shape, model, self.now)),
        }
    }
}

fn put_logprobs(common: &Common<'_>, body: &mut Body<'_>) {
    if common.logprobs == Some(true) {
        body.put("logprobs", Member::Json(true.into()));
        if let Some(top) = common.top_logprobs.filter(|top| *top > 0) {
            body.put("top_logprobs", Member::Json(top.into()));
        }
    }
}

/// `format` as `response_format`.
fn response_format(format: Option<&RawValue>) -> Result<Option<Value>, Untranslatable> {
    let Some(format) = format else {
        return Ok(None);
    };
    let value: Value = serde_json::from_str(format.get()).unwrap_or_default();
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text == "json" => Ok(Some(json!({"type": "json_object"}))),
        Value::Object(_) => Ok(Some(json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": value},
        }))),
        // Ollama's text.
        _ => {
            let quoted = Value::String(format.get().to_owned());
            Err(Untranslatable::Invalid(format!(
                "invalid format: {quoted}; expected \"json\" or a valid JSON Schema object"
            )))
        }
    }
}

fn read<'a, T: Deserialize<'a>>(request: &'a [u8]) -> Result<T, Untranslatable> {
    if request.is_empty() {
        return Err(Untranslatable::Invalid("missing request body".to_owned()));
    }
    serde_json::from_slice(request).map_err(|error| Untranslatable::Invalid(error.to_string()))
}

fn model_of<'a>(common: &'a Common<'_>) -> Result<&'a str, Untranslatable> {
    let model = common.model.as_ref().map(|model| &*model.0);
    model.filter(|model| !model.is_empty()).ok_or_else(no_model)
}

fn no_model() -> Untranslatable {
    Untranslatable::Invalid("model is required".to_owned())
}

#[cfg(test)]
mod tests;
