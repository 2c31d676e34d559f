//! The properties of a simulated model.

use std::str::FromStr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::duration;

/// A simulated model: its size, speed and capabilities.
///
/// ```
/// use std::time::Duration;
/// use llamatower_sim::ModelSpec;
///
/// let model = ModelSpec::new("tiny")
///     .with_load_time(Duration::from_millis(300))
///     .with_pace(Duration::from_millis(15))
///     .with_slots(2);
/// // The same model in the syntax of the command line.
/// let same: ModelSpec = "tiny,load=300ms,pace=15ms,slots=2".parse().expect("well-formed");
/// assert_eq!(model, same);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelSpec {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) load_time: Duration,
    pub(crate) prompt_rate: Option<f64>,
    pub(crate) pace: Duration,
    pub(crate) slots: usize,
    pub(crate) reply_tokens: u64,
    pub(crate) longest_reply: Option<u64>,
    pub(crate) line_tokens: u64,
    pub(crate) reply_from_prompt: bool,
    pub(crate) echo_from_prompt: bool,
    pub(crate) context_length: u64,
    pub(crate) embedding_length: usize,
    pub(crate) parameters: u64,
    pub(crate) capabilities: Vec<String>,
    pub(crate) digest: Option<String>,
    pub(crate) modified_at: Option<Timestamp>,
}

impl ModelSpec {
    /// A model that loads and answers without delay: 0.5 MB, one slot, replies of 24 tokens, a
    /// context of 2048, embeddings of 64 numbers, with the capabilities `completion` and `tools`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            size: 487_851,
            load_time: Duration::ZERO,
            prompt_rate: None,
            pace: Duration::ZERO,
            slots: 1,
            reply_tokens: 24,
            longest_reply: None,
            line_tokens: 1,
            reply_from_prompt: false,
            echo_from_prompt: false,
            context_length: 2048,
            embedding_length: 64,
            parameters: 119_744,
            capabilities: vec!["completion".into(), "tools".into()],
            digest: None,
            modified_at: None,
        }
    }

    /// The size of its files in bytes, which is also its size in memory.
    pub fn with_size(mut self, bytes: u64) -> Self {
        self.size = bytes;
        self
    }

    /// The time to load it.
    pub fn with_load_time(mut self, load_time: Duration) -> Self {
        self.load_time = load_time;
        self
    }

    /// The speed of prompt processing in tokens per second. By default a prompt takes no time. A
    /// rate of 0 or less is ignored.
    pub fn with_prompt_rate(mut self, tokens_per_second: f64) -> Self {
        self.prompt_rate = (tokens_per_second > 0.0).then_some(tokens_per_second);
        self
    }

    /// The time for each token of an answer; zero sends all tokens in one burst.
    pub fn with_pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// The number of requests that it serves at once (`OLLAMA_NUM_PARALLEL`); at least one.
    pub fn with_slots(mut self, slots: usize) -> Self {
        self.slots = slots.max(1);
        self
    }

    /// How many tokens it answers when the request sets no limit; then it stops by itself.
    pub fn with_reply_tokens(mut self, tokens: u64) -> Self {
        self.reply_tokens = tokens;
        self
    }

    /// How many tokens it answers at most: then it stops by itself, even if the request allows
    /// more. Coding agents allow tens of thousands.
    ///
    /// ```
    /// use llamatower_sim::ModelSpec;
    ///
    /// let read: ModelSpec = "tiny,longest-reply=40".parse().expect("well-formed");
    /// assert_eq!(read, ModelSpec::new("tiny").with_longest_reply(40));
    /// ```
    pub fn with_longest_reply(mut self, tokens: u64) -> Self {
        self.longest_reply = Some(tokens);
        self
    }

    /// How many tokens a line of a stream holds, except the first line, which holds one token; at
    /// least one. Ollama sends a line for each token; longer lines keep a fast simulation cheap.
    pub fn with_line_tokens(mut self, tokens: u64) -> Self {
        self.line_tokens = tokens.max(1);
        self
    }

    /// Whether the prompt says how long the answer is, in its last word: `reply=200`. So clients ask
    /// for answers of many lengths without a limit in the request, which a proxy could read.
    pub fn with_reply_from_prompt(mut self) -> Self {
        self.reply_from_prompt = true;
        self
    }

    /// Whether the prompt says what every token of the answer is, in a word of letters and digits:
    /// `echo=3f9c`. A client that sends another word in each prompt sees if it gets a part of an
    /// answer to another request.
    pub fn with_echo_from_prompt(mut self) -> Self {
        self.echo_from_prompt = true;
        self
    }

    /// The context it was trained with, in tokens.
    pub fn with_context_length(mut self, tokens: u64) -> Self {
        self.context_length = tokens;
        self
    }

    /// The number of values of an embedding.
    pub fn with_embedding_length(mut self, numbers: usize) -> Self {
        self.embedding_length = numbers;
        self
    }

    /// Adds a capability: `thinking`, `vision`, `insert`, `audio`, `embedding`.
    pub fn with_capability(mut self, capability: impl Into<String>) -> Self {
        let capability = capability.into();
        if !self.can(&capability) {
            self.capabilities.push(capability);
        }
        self
    }

    /// Replaces the capabilities.
    pub fn with_capabilities<C: Into<String>>(mut self, all: impl IntoIterator<Item = C>) -> Self {
        self.capabilities = all.into_iter().map(Into::into).collect();
        self
    }

    /// A model that can only embed, with one slot, as in Ollama.
    pub fn embedding_only(self) -> Self {
        self.with_capabilities(["embedding"]).with_slots(1)
    }

    /// The digest in lists, 64 hex digits. The default is made from the name and the size, so the
    /// same model has the same digest on each server.
    pub fn with_digest(mut self, digest: impl Into<String>) -> Self {
        self.digest = Some(digest.into());
        self
    }

    /// The modification time in lists; by default the start of the server.
    pub fn with_modified_at(mut self, at: Timestamp) -> Self {
        self.modified_at = Some(at);
        self
    }

    /// The same model on a server that is faster by a factor.
    pub(crate) fn at_speed(mut self, speed: f64) -> Self {
        self.load_time = self.load_time.div_f64(speed);
        self.pace = self.pace.div_f64(speed);
        self.prompt_rate = self.prompt_rate.map(|rate| rate * speed);
        self
    }

    /// The name, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }

    /// The digest of the weights: names with the same weights share a runner.
    pub(crate) fn weights(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(format!("{} {}", self.name, self.size)))
    }

    pub(crate) fn parameter_size(&self) -> String {
        match self.parameters {
            n if n >= 1_000_000_000 => format!("{:.1}B", n as f64 / 1e9),
            n if n >= 1_000_000 => format!("{:.2}M", n as f64 / 1e6),
            n => format!("{:.0}K", n as f64 / 1e3),
        }
    }
}

/// The error of an invalid model description: the invalid part, and the expected form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidModel(String);

impl std::fmt::Display for InvalidModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidModel {}

impl FromStr for ModelSpec {
    type Err = InvalidModel;

    /// `NAME[,KEY=VALUE..][,CAPABILITY..]`; the keys are `load`, `pace`, `prompt-rate`, `slots`,
    /// `reply`, `longest-reply`, `line-tokens`, `size`, `context`, `embedding-length` and `digest`, the words
    /// `reply-from-prompt`, `echo-from-prompt`, `embedding-only`, `thinking`, `vision`, `insert`, `audio` and `embedding`.
    fn from_str(text: &str) -> Result<Self, InvalidModel> {
        let mut parts = text.split(',').map(str::trim);
        let name = parts.next().unwrap_or_default();
        if crate::name::Name::parse(name).is_none() {
            return Err(InvalidModel(format!("{name:?} is not the name of a model")));
        }
        parts.try_fold(Self::new(name), |spec, part| spec.with_part(part))
    }
}

impl ModelSpec {
    fn with_part(self, part: &str) -> Result<Self, InvalidModel> {
        let wrong = |what: &str| InvalidModel(format!("{part:?}: {what}"));
        let Some((key, value)) = part.split_once('=') else {
            return match part {
                "embedding-only" => Ok(self.embedding_only()),
                "reply-from-prompt" => Ok(self.with_reply_from_prompt()),
                "echo-from-prompt" => Ok(self.with_echo_from_prompt()),
                "thinking" | "vision" | "insert" | "audio" | "embedding" => {
                    Ok(self.with_capability(part))
                }
                _ => Err(wrong("expected KEY=VALUE or a capability")),
            };
        };
        let time = || duration::parse(value).map_err(|why| wrong(&why));
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| wrong("expected a whole number"))
        };
        let count = || usize::try_from(number()?).map_err(|_| wrong("the number is too big"));
        Ok(match key {
            "load" => self.with_load_time(time()?),
            "pace" => self.with_pace(time()?),
            "prompt-rate" => self.with_prompt_rate(
                value
                    .parse()
                    .map_err(|_| wrong("expected tokens per second"))?,
            ),
            "slots" => self.with_slots(count()?),
            "reply" => self.with_reply_tokens(number()?),
            "longest-reply" => self.with_longest_reply(number()?),
            "line-tokens" => self.with_line_tokens(number()?),
            "size" => self.with_size(number()?),
            "context" => self.with_context_length(number()?),
            "embedding-length" => self.with_embedding_length(count()?),
            "digest" => self.with_digest(value),
            _ => return Err(wrong("unknown key")),
        })
    }
}
