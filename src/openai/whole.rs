//! Whole answers: of chats and completions without streaming, and of embeddings.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::Chunk;
use super::error::{message_in, status_in};
use super::line::{End, Item, Moment, Shape, Writer, put_json_text};
use super::tools::ToolCalls;
use super::transcoder::{StreamFault, done_reason};

/// Translates the whole answer of `/v1/chat/completions` or `/v1/completions`.
///
/// The clock tells only the time of the whole answer, so that `eval_duration` includes the time of
/// the prompt, unless the server sends durations.
///
/// # Errors
/// It is an error in spite of its status, or not a complete answer in OpenAI's dialect.
pub fn answer(
    body: &[u8],
    shape: Shape,
    model: &str,
    now: Moment,
) -> Result<BytesMut, StreamFault> {
    let chunk: Chunk<'_> =
        serde_json::from_slice(body).map_err(|_| StreamFault::Broken("it is not a completion"))?;
    if let Some(error) = chunk.error() {
        return Err(StreamFault::Error {
            message: message_in(error).unwrap_or_default(),
            status: status_in(error),
        });
    }
    let choice = chunk.choices.0.as_ref();
    let finished = choice.and_then(|choice| Some((choice, choice.finish_reason.as_ref()?)));
    let (choice, finish_reason) =
        finished.ok_or(StreamFault::Broken("it has no choice with a finish_reason"))?;
    if !choice.has_texts_only() {
        return Err(StreamFault::Broken("a part of the answer is not a text"));
    }
    let mut calls = ToolCalls::default();
    let parts = choice
        .message()
        .and_then(|message| message.tool_calls.as_ref());
    for part in parts.into_iter().flatten() {
        calls.add(part).map_err(StreamFault::Unusable)?;
    }
    let mut written = BytesMut::new();
    if !calls.is_empty() {
        calls
            .write(&mut written, &*finish_reason.0 == "length")
            .map_err(StreamFault::Unusable)?;
    }
    let usage = chunk.usage().unwrap_or_default();
    let (prompt, output) = chunk
        .phases()
        .unwrap_or((std::time::Duration::ZERO, now.elapsed));
    let end = End {
        reason: done_reason(&finish_reason.0),
        prompt_tokens: usage.prompt_tokens,
        output_tokens: usage.completion_tokens,
        total: now.elapsed,
        prompt,
        output,
    };
    let item = Item {
        content: choice.content(),
        thinking: choice.thinking(),
        tool_calls: (written.len() > "[]".len()).then_some(&*written),
        logprobs: choice.logprobs(),
        end: Some(&end),
    };
    let mut out = BytesMut::with_capacity(body.len());
    Writer::new(shape, model).item(&mut out, now.wall, &item);
    Ok(out)
}

/// The answer to a request without a prompt, which loads a model: the server has it in memory.
pub(super) fn loaded(shape: Shape, model: &str, now: Moment) -> Bytes {
    let end = End {
        reason: "load",
        ..End::default()
    };
    let item = Item {
        end: Some(&end),
        ..Item::default()
    };
    let mut out = BytesMut::new();
    Writer::new(shape, model).item(&mut out, now.wall, &item);
    out.freeze()
}

/// Translates the answer of `/v1/embeddings` for `/api/embed`.
///
/// # Errors
/// It is not a list of embeddings.
pub fn embed(body: &[u8], model: &str, now: Moment) -> Result<BytesMut, StreamFault> {
    let page = embeddings(body)?;
    let mut out = BytesMut::with_capacity(body.len());
    out.put_slice(b"{\"model\":");
    put_json_text(&mut out, &serde_json::to_string(model).unwrap_or_default());
    out.put_slice(b",\"embeddings\":[");
    for (place, row) in page.data.iter().enumerate() {
        if place > 0 {
            out.put_u8(b',');
        }
        put_json_text(&mut out, row.embedding.get());
    }
    let total = now.elapsed.as_nanos();
    out.put_slice(format!("],\"total_duration\":{total}").as_bytes());
    let tokens = page.usage.and_then(|usage| usage.prompt_tokens);
    if let Some(tokens) = tokens.filter(|tokens| *tokens > 0) {
        out.put_slice(format!(",\"prompt_eval_count\":{tokens}").as_bytes());
    }
    out.put_u8(b'}');
    Ok(out)
}

/// Translates the answer of `/v1/embeddings` for `/api/embeddings`.
///
/// # Errors
/// It is not a list of embeddings.
pub fn embedding(body: &[u8]) -> Result<BytesMut, StreamFault> {
    let page = embeddings(body)?;
    let first = page.data.first();
    let vector = first.map_or("[]", |row| row.embedding.get());
    let mut out = BytesMut::with_capacity(vector.len() + 16);
    out.put_slice(b"{\"embedding\":");
    put_json_text(&mut out, vector);
    out.put_u8(b'}');
    Ok(out)
}

#[derive(Deserialize)]
struct Embeddings<'a> {
    #[serde(borrow)]
    data: Vec<Row<'a>>,
    #[serde(default)]
    usage: Option<super::chunk::Usage>,
}

#[derive(Clone, Deserialize)]
struct Row<'a> {
    #[serde(default)]
    index: usize,
    #[serde(borrow)]
    embedding: &'a RawValue,
}

fn embeddings(body: &[u8]) -> Result<Embeddings<'_>, StreamFault> {
    let mut page: Embeddings<'_> = serde_json::from_slice(body)
        .map_err(|_| StreamFault::Broken("it is not a list of embeddings"))?;
    page.data.sort_by_key(|row| row.index);
    match page.data.iter().all(|row| is_vector(row.embedding.get())) {
        true => Ok(page),
        false => Err(StreamFault::Broken(
            "an embedding of it is not a list of numbers; llama.cpp gives one for each token if its \
             model needs --pooling",
        )),
    }
}

/// Whether it is a list and not one of lists, which llama.cpp sends, or a text in base64.
fn is_vector(json: &str) -> bool {
    let items = json.strip_prefix('[').map(str::trim_start);
    items.is_some_and(|items| !items.starts_with(['[', '"', '{']))
}
