//! Requests whose prompt has a given number of tokens, and shares its beginning with others.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{scenario::Job, trace::BLOCK_TOKENS};

/// The simulated servers count a token for each four bytes of the messages.
const TOKEN_BYTES: usize = 4;

/// The name of a model.
pub(crate) fn model_name(model: usize) -> String {
    format!("race-{}:latest", model + 1)
}

/// The body of `POST /api/chat` for a job.
pub(crate) fn body(nth: usize, job: &Job) -> Bytes {
    let reply = format!(" reply={}", job.reply_tokens);
    let blocks = match job.blocks.is_empty() {
        true => vec![],
        false => job.blocks.iter().map(|id| block(*id)).collect(),
    };
    // Conversations of the trace begin with the same block: a system prompt.
    let (system, user) = match blocks.split_first() {
        Some((first, others)) if !others.is_empty() => (first.clone(), others.concat()),
        _ => (
            "Answer in English.".to_owned(),
            format!("request {nth}: {}", blocks.concat()),
        ),
    };
    let bare = messages(&system, &reply).to_string().len();
    let room = (job.prompt_tokens as usize * TOKEN_BYTES).saturating_sub(bare);
    let mut user = user;
    while user.len() < room {
        user.push_str(" and so on");
    }
    user.truncate(room);
    let request = json!({
        "model": model_name(job.model),
        "messages": messages(&system, &(user + &reply)),
        "stream": true,
    });
    request.to_string().into()
}

fn messages(system: &str, user: &str) -> Value {
    json!([{"role": "system", "content": system}, {"role": "user", "content": user}])
}

/// The text of a block of a trace.
fn block(id: u64) -> String {
    let word = format!("{id:07} ");
    word.repeat(BLOCK_TOKENS as usize * TOKEN_BYTES / word.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        scenario::{Length, Scenario},
        trace::tiny,
    };

    fn messages_of(body: &Bytes) -> String {
        let body: Value = serde_json::from_slice(body).unwrap();
        body["messages"].to_string()
    }

    #[test]
    fn a_prompt_has_the_wanted_length_and_shares_its_blocks() {
        let [azure, mooncake] = tiny();
        let length = Length {
            seconds: 8.0,
            round: 0,
        };
        for (name, trace) in [("healthy", azure), ("prefix", mooncake)] {
            let scenario = Scenario::named(name, &[trace], length).unwrap();
            for (nth, job) in scenario.jobs.iter().enumerate() {
                let text = messages_of(&body(nth, job));
                assert_eq!(text.len().div_ceil(TOKEN_BYTES) as u64, job.prompt_tokens);
                assert!(text.contains(&format!(" reply={}\"", job.reply_tokens)));
            }
        }
    }

    #[test]
    fn prompts_with_the_same_blocks_begin_alike() {
        let [_, trace] = tiny();
        let length = Length {
            seconds: 8.0,
            round: 0,
        };
        let scenario = Scenario::named("prefix", &[trace], length).unwrap();
        let texts: Vec<String> = scenario.jobs[..2]
            .iter()
            .enumerate()
            .map(|(nth, job)| messages_of(&body(nth, job)))
            .collect();
        let same = texts[0]
            .bytes()
            .zip(texts[1].bytes())
            .take_while(|(a, b)| a == b);
        assert!(same.count() >= 2 * BLOCK_TOKENS as usize * TOKEN_BYTES);
    }
}
