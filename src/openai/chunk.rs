//! What is read of a server's answers.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A chunk of a stream, or a whole answer, of `/v1/chat/completions` and `/v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk<'a> {
    /// The first choice; more are not asked for.
    #[serde(borrow, default)]
    pub(super) choices: First<Choice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    /// Durations of llama.cpp.
    #[serde(default)]
    timings: Option<Timings>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    /// Groq's own part of the first and the last chunk, and of an error in the middle of a stream.
    #[serde(default)]
    x_groq: Option<XGroq>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice<'a> {
    /// In a chunk of a chat.
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    /// In a whole answer of a chat.
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    /// In a completion, whole or not.
    #[serde(borrow, default)]
    pub(super) text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    logprobs: Option<Logprobs<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow, default)]
    pub(super) content: Option<&'a RawValue>,
    /// OpenAI's text of a refusal, which stands in the place of the content.
    #[serde(borrow, default)]
    pub(super) refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) tool_calls: Option<Vec<ToolCall<'a>>>,
}

/// A call of a tool, or a part of one.
#[derive(Debug, Deserialize)]
pub(super) struct ToolCall<'a> {
    #[serde(default)]
    pub(super) index: Option<usize>,
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) function: Option<Function<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) arguments: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// The counts of tokens; Groq also sends durations.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: Option<u64>,
    #[serde(default)]
    pub(super) completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_time: Option<f64>,
    #[serde(default)]
    completion_time: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Timings {
    #[serde(default)]
    prompt_ms: Option<f64>,
    #[serde(default)]
    predicted_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct XGroq {
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    usage: Option<Usage>,
}

/// A text, borrowed if it has no escapes.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'a> Chunk<'a> {
    /// The error in it.
    pub(super) fn error(&self) -> Option<&Value> {
        let is_error = |error: &&Value| !matches!(error, Value::Null | Value::Bool(false));
        let groq = || self.x_groq.as_ref()?.error.as_ref();
        self.error.as_ref().or_else(groq).filter(is_error)
    }

    /// The counts of tokens, if they are in it.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
            .or_else(|| self.x_groq.as_ref().and_then(|groq| groq.usage))
    }

    /// The durations of prompt processing and of generation, if the server tells them.
    pub(super) fn phases(&self) -> Option<(Duration, Duration)> {
        let of = |prompt: Option<f64>, output: Option<f64>| {
            let prompt = Duration::try_from_secs_f64(prompt?).ok()?;
            let output = Duration::try_from_secs_f64(output?).ok()?;
            Some((prompt, output))
        };
        let timings = || {
            let timings = self.timings?;
            let seconds = |milliseconds: Option<f64>| milliseconds.map(|ms| ms / 1000.0);
            of(seconds(timings.prompt_ms), seconds(timings.predicted_ms))
        };
        let usage = || {
            let usage = self.usage()?;
            of(usage.prompt_time, usage.completion_time)
        };
        timings().or_else(usage)
    }
}

impl<'a> Choice<'a> {
    /// The message of a chat, or its part in this chunk.
    pub(super) fn message(&self) -> Option<&Message<'a>> {
        self.delta.as_ref().or(self.message.as_ref())
    }

    /// Whether all of its texts are texts. Some services send lists of parts, which would be lost.
    pub(super) fn has_texts_only(&self) -> bool {
        let of_message = self.message().into_iter().flat_map(|message| {
            let Message {
                content,
                refusal,
                reasoning,
                reasoning_content,
                ..
            } = message;
            [content, refusal, reasoning, reasoning_content]
        });
        let texts = of_message.chain([&self.text]).flatten();
        texts
            .map(|raw| raw.get())
            .all(|raw| raw.starts_with('"') || raw == "null")
    }

    /// The text of the answer, as JSON; `None` if it is empty.
    pub(super) fn content(&self) -> Option<&'a str> {
        let of_message = || {
            let message = self.message()?;
            text(message.content).or_else(|| text(message.refusal))
        };
        text(self.text).or_else(of_message)
    }

    /// The thoughts, as JSON; `None` if they are empty.
    pub(super) fn thinking(&self) -> Option<&'a str> {
        let message = self.message()?;
        text(message.reasoning_content).or_else(|| text(message.reasoning))
    }

    /// The list of token probabilities, as JSON.
    pub(super) fn logprobs(&self) -> Option<&'a str> {
        let list = self.logprobs.as_ref()?.content?.get();
        (list.starts_with('[') && list != "[]").then_some(list)
    }
}

/// A JSON string that is not empty.
fn text(raw: Option<&RawValue>) -> Option<&str> {
    let raw = raw?.get();
    (raw.starts_with('"') && raw != r#""""#).then_some(raw)
}

/// The first item of a list; the others are skipped. Null is an empty list.
#[derive(Debug)]
pub(super) struct First<T>(pub(super) Option<T>);

impl<T> Default for First<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for First<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = First<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<First<T>, E> {
                Ok(First(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<First<T>, A::Error> {
                let first = items.next_element()?;
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }

        deserializer.deserialize_any(Items(PhantomData))
    }
}
