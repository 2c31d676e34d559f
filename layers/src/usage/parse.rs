//! The counts in the last bytes of an answer.

use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;

use super::{Timings, Usage};

/// `usage` as OpenAI and as Anthropic write it.
#[derive(Deserialize)]
struct UsageMember {
    #[serde(default, alias = "input_tokens")]
    prompt_tokens: u64,
    #[serde(default, alias = "output_tokens")]
    completion_tokens: u64,
}

impl Usage {
    /// The last counts in `bytes`, which may begin anywhere in an answer; in any dialect.
    ///
    /// Members are searched by name. That is safe, as a quote inside of a string has a backslash
    /// before it: what a model says cannot look like a member. `None` also stands for counts that
    /// are all zero, as some versions of Ollama send them with every chunk of a stream.
    pub fn find_last(bytes: &[u8]) -> Option<Self> {
        let usage = native(bytes).or_else(|| member(bytes))?;
        (usage.tokens() > 0).then_some(usage)
    }
}

fn native(bytes: &[u8]) -> Option<Usage> {
    let (prompt, output) = (
        number(bytes, b"\"prompt_eval_count\":"),
        number(bytes, b"\"eval_count\":"),
    );
    if prompt.is_none() && output.is_none() {
        return None;
    }
    let duration = |name: &[u8]| Duration::from_nanos(number(bytes, name).unwrap_or_default());
    Some(Usage {
        prompt_tokens: prompt.unwrap_or_default(),
        output_tokens: output.unwrap_or_default(),
        timings: Some(Timings {
            load: duration(b"\"load_duration\":"),
            prompt: duration(b"\"prompt_eval_duration\":"),
            output: duration(b"\"eval_duration\":"),
            total: duration(b"\"total_duration\":"),
        }),
    })
}

fn member(bytes: &[u8]) -> Option<Usage> {
    let value = after_last(bytes, b"\"usage\":")?;
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<UsageMember>();
    let usage = values.next()?.ok()?;
    Some(Usage {
        prompt_tokens: usage.prompt_tokens,
        output_tokens: usage.completion_tokens,
        timings: None,
    })
}

fn number(bytes: &[u8], name: &[u8]) -> Option<u64> {
    let value = after_last(bytes, name)?.trim_ascii_start();
    let digits = value
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

fn after_last<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = memmem::rfind(bytes, name)?;
    Some(&bytes[at + name.len()..])
}
