//! Reads the token counts from the last bytes of a response.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Timings, Usage};

/// The `usage` object of OpenAI and Anthropic.
#[derive(Deserialize)]
struct UsageMember<'a> {
    #[serde(default, alias = "input_tokens")]
    prompt_tokens: u64,
    #[serde(default, alias = "output_tokens")]
    completion_tokens: u64,
    // Unread texts: some servers send `null` or other types, which must not hide the counts.
    #[serde(borrow, default)]
    prompt_tokens_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    completion_tokens_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input_tokens_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output_tokens_details: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

impl Details {
    /// The first object of `texts`.
    fn of<const N: usize>(texts: [Option<&RawValue>; N]) -> Self {
        let mut texts = texts.into_iter().flatten();
        let found = texts.find_map(|text| serde_json::from_str(text.get()).ok());
        found.unwrap_or_default()
    }
}

impl Usage {
    /// The last counts in `bytes`, which may start anywhere in a response, in any dialect.
    ///
    /// Members are searched by name, from the end. This is safe: a quote inside of a string follows
    /// a backslash, so model output cannot look like a member. Counts that are all 0 give `None`,
    /// because some versions of Ollama send them with every chunk of a stream.
    pub fn find_last(bytes: &[u8]) -> Option<Self> {
        let usage = last_counts(bytes)?;
        (usage.tokens() > 0).then_some(usage)
    }
}

/// Ollama writes its counts as adjacent members at the end of a response. The other dialects write
/// them into a `usage` object.
fn last_counts(bytes: &[u8]) -> Option<Usage> {
    let mut found = OllamaCounts::default();
    for (name, value) in members_from_the_end(bytes) {
        if name == b"usage"
            && !found.has_counts()
            && let Some(usage) = openai_or_anthropic(value)
        {
            return Some(usage);
        }
        let is_over = !found.take(name, value) && found.has_counts();
        if is_over || found.is_complete() {
            break;
        }
    }
    found.usage()
}

/// The counts of Ollama's own dialect. The first value is kept: members are read from the end.
#[derive(Default)]
struct OllamaCounts {
    prompt: Option<u64>,
    output: Option<u64>,
    load_time: Option<u64>,
    prompt_time: Option<u64>,
    output_time: Option<u64>,
    total_time: Option<u64>,
}

impl OllamaCounts {
    /// Takes the value of a member. Returns `false` if the name is not one of these.
    fn take(&mut self, name: &[u8], value: &[u8]) -> bool {
        let place = match name {
            b"prompt_eval_count" => &mut self.prompt,
            b"eval_count" => &mut self.output,
            b"load_duration" => &mut self.load_time,
            b"prompt_eval_duration" => &mut self.prompt_time,
            b"eval_duration" => &mut self.output_time,
            b"total_duration" => &mut self.total_time,
            _ => return false,
        };
        *place = place.or_else(|| number(value));
        true
    }

    fn has_counts(&self) -> bool {
        self.prompt.is_some() || self.output.is_some()
    }

    /// Whether no earlier member can add to it.
    fn is_complete(&self) -> bool {
        self.total_time.is_some()
            && self.load_time.is_some()
            && self.prompt.is_some()
            && self.prompt_time.is_some()
            && self.output.is_some()
            && self.output_time.is_some()
    }

    fn usage(&self) -> Option<Usage> {
        let duration = |found: Option<u64>| Duration::from_nanos(found.unwrap_or_default());
        self.has_counts().then(|| Usage {
            prompt_tokens: self.prompt.unwrap_or_default(),
            output_tokens: self.output.unwrap_or_default(),
            cached_prompt_tokens: None,
            reasoning_tokens: None,
            timings: Some(Timings {
                load: duration(self.load_time),
                prompt: duration(self.prompt_time),
                output: duration(self.output_time),
                total: duration(self.total_time),
            }),
        })
    }
}

fn openai_or_anthropic(value: &[u8]) -> Option<Usage> {
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<UsageMember<'_>>();
    let usage = values.next()?.ok()?;
    let prompt = Details::of([usage.prompt_tokens_details, usage.input_tokens_details]);
    let output = Details::of([usage.completion_tokens_details, usage.output_tokens_details]);
    Some(Usage {
        prompt_tokens: usage.prompt_tokens,
        output_tokens: usage.completion_tokens,
        cached_prompt_tokens: prompt.cached_tokens,
        reasoning_tokens: output.reasoning_tokens,
        timings: None,
    })
}

/// The member names with the text after their colons, last first.
fn members_from_the_end(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut end = bytes.len();
    std::iter::from_fn(move || {
        loop {
            let closing = memchr::memrchr(b'"', &bytes[..end])?;
            end = closing;
            let value = bytes[closing + 1..].trim_ascii_start();
            if let Some(value) = value.strip_prefix(b":") {
                let opening = memchr::memrchr(b'"', &bytes[..closing])?;
                end = opening;
                return Some((&bytes[opening + 1..closing], value));
            }
        }
    })
}

fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii_start();
    let (mut number, mut digits) = (0_u64, 0);
    for byte in value.iter().take_while(|byte| byte.is_ascii_digit()) {
        number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
        digits += 1;
    }
    // All numbers of up to 19 digits fit.
    (1..20).contains(&digits).then_some(number)
}
