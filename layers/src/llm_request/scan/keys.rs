//! The keys of a request that the gateway uses.

use crate::{Dialect, Operation};

/// A key that the gateway uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Model,
    Name,
    Source,
    Stream,
    KeepAlive,
    Options,
    Prompt,
    Messages,
    Input,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    System,
    Instructions,
    Images,
    Tools,
    Think,
    ReasoningEffort,
    Reasoning,
    Thinking,
    // Of `options`:
    NumCtx,
    NumPredict,
    // Of `reasoning` and `thinking`:
    Effort,
    Type,
}

impl Key {
    const OF_BODY: [Self; 20] = [
        Self::Model,
        Self::Name,
        Self::Source,
        Self::Stream,
        Self::KeepAlive,
        Self::Options,
        Self::Prompt,
        Self::Messages,
        Self::Input,
        Self::MaxTokens,
        Self::MaxCompletionTokens,
        Self::MaxOutputTokens,
        Self::System,
        Self::Instructions,
        Self::Images,
        Self::Tools,
        Self::Think,
        Self::ReasoningEffort,
        Self::Reasoning,
        Self::Thinking,
    ];
    const OF_OPTIONS: [Self; 2] = [Self::NumCtx, Self::NumPredict];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Name => "name",
            Self::Source => "source",
            Self::Stream => "stream",
            Self::KeepAlive => "keep_alive",
            Self::Options => "options",
            Self::Prompt => "prompt",
            Self::Messages => "messages",
            Self::Input => "input",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::System => "system",
            Self::Instructions => "instructions",
            Self::Images => "images",
            Self::Tools => "tools",
            Self::Think => "think",
            Self::ReasoningEffort => "reasoning_effort",
            Self::Reasoning => "reasoning",
            Self::Thinking => "thinking",
            Self::Effort => "effort",
            Self::Type => "type",
            Self::NumCtx => "num_ctx",
            Self::NumPredict => "num_predict",
        }
    }

    /// How many raw bytes of its value are needed, including escapes.
    pub(super) fn kept_bytes(self) -> usize {
        match self {
            Self::Model | Self::Name | Self::Source => 6 * super::MAX_NAME_BYTES,
            Self::KeepAlive | Self::NumCtx | Self::NumPredict => 128,
            Self::MaxTokens | Self::MaxCompletionTokens | Self::MaxOutputTokens => 128,
            Self::Think | Self::ReasoningEffort | Self::Effort | Self::Type => 16,
            // It only matters whether there are any.
            Self::Prompt | Self::Messages | Self::Input => 0,
            Self::Stream | Self::Options | Self::System | Self::Instructions => 0,
            Self::Images | Self::Tools | Self::Reasoning | Self::Thinking => 0,
        }
    }

    /// Whether its value is a part of the prompt.
    pub(super) fn is_content(self) -> bool {
        matches!(
            self,
            Self::Prompt | Self::Messages | Self::Input | Self::System | Self::Instructions
        )
    }

    /// Whether the gateway acts on its value. Of the others it makes a guess.
    pub(super) fn is_acted_on(self) -> bool {
        use Key::{
            Images, Instructions, MaxCompletionTokens, MaxOutputTokens, Reasoning, ReasoningEffort,
            System, Think, Thinking, Tools,
        };
        !matches!(
            self,
            MaxCompletionTokens
                | MaxOutputTokens
                | System
                | Instructions
                | Images
                | Tools
                | Think
                | ReasoningEffort
                | Reasoning
                | Thinking
        )
    }

    /// Whether its value is a limit of the response.
    pub(super) fn limits_output(self) -> bool {
        use Key::{MaxCompletionTokens, MaxOutputTokens, MaxTokens, NumPredict};
        matches!(
            self,
            MaxTokens | MaxCompletionTokens | MaxOutputTokens | NumPredict
        )
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The keys that the gateway uses in one kind of request. All others are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys(u32);

impl Keys {
    /// The keys of a request to this operation in this dialect.
    pub fn of(dialect: Dialect, operation: Operation) -> Self {
        use Key::*;
        use Operation::{Chat, Copy, Create, Delete, Embed, Extra, Generate, Pull, Push, Show};
        let keys: &[Key] = match (dialect, operation) {
            (Dialect::Ollama, Generate) => &[
                Model, Stream, KeepAlive, Options, Prompt, System, Images, Think,
            ],
            (Dialect::Ollama, Chat) => &[Model, Stream, KeepAlive, Options, Messages, Tools, Think],
            // One of the two routes uses `input`, the other `prompt`.
            (Dialect::Ollama, Embed) => &[Model, KeepAlive, Options, Input, Prompt],
            (_, Show | Delete) => &[Model, Name],
            (_, Pull | Push | Create) => &[Model, Name, Stream],
            (_, Copy) => &[Source],
            (Dialect::Responses, Chat) => &[
                Model,
                Stream,
                Input,
                MaxOutputTokens,
                Instructions,
                Tools,
                Reasoning,
            ],
            (Dialect::Anthropic, Chat) => {
                &[Model, Stream, Messages, MaxTokens, System, Tools, Thinking]
            }
            (_, Chat) => &[
                Model,
                Stream,
                Messages,
                MaxTokens,
                MaxCompletionTokens,
                System,
                Tools,
                Reasoning,
                ReasoningEffort,
            ],
            (_, Generate) => &[Model, Stream, Prompt, MaxTokens],
            (_, Embed) => &[Model, Input],
            (_, Extra) => &[Model, Stream, KeepAlive, Options, Prompt, Messages, Input],
            _ => &[Model],
        };
        Self(keys.iter().fold(0, |set, key| set | key.bit()))
    }

    pub(super) fn contains(self, key: Key) -> bool {
        self.0 & key.bit() != 0
    }

    /// The key with exactly this spelling, which is the usual case.
    pub(super) fn find_exact(self, raw: &[u8], in_options: bool) -> Option<Key> {
        self.known(in_options)
            .find(|key| key.text().as_bytes() == raw)
    }

    /// The key that Go would match with `text`.
    pub(super) fn find(self, text: &str, in_options: bool) -> Option<Key> {
        self.known(in_options)
            .find(|key| super::text::folds_to(text, key.text()))
    }

    fn known(self, in_options: bool) -> impl Iterator<Item = Key> {
        let known: &[Key] = match in_options {
            false => &Key::OF_BODY,
            true => &Key::OF_OPTIONS,
        };
        known
            .iter()
            .copied()
            .filter(move |key| in_options || self.contains(*key))
    }
}

/// A set of seen keys.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// Adds a key; returns `false` if it was already there.
    pub(super) fn insert(&mut self, key: Key) -> bool {
        let is_new = self.0 & key.bit() == 0;
        self.0 |= key.bit();
        is_new
    }

    pub(super) fn contains(self, key: Key) -> bool {
        self.0 & key.bit() != 0
    }
}
