//! The stream of a server, event by event, becomes lines of Ollama's dialect.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::StatusCode;
use serde_json::Value;

use super::chunk::{Choice, Chunk, Usage};
use super::error::{message_in, status_in};
use super::line::{End, Item, Moment, Shape, Writer};
use super::tools::ToolCalls;

/// Limit of one line of the stream, in bytes. Ollama's own limit is 8 MB.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// Why a stream cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFault {
    /// The server has sent an error.
    Error {
        /// The server's text.
        message: String,
        /// The status that it names.
        status: Option<StatusCode>,
    },
    /// The stream is incomplete, or not in OpenAI's dialect.
    Broken(&'static str),
    /// What the model has written cannot be told in Ollama's dialect.
    Unusable(&'static str),
}

/// Translates the events of one stream. It takes bytes, in any pieces, and gives complete lines.
///
/// It keeps the incomplete line and event, the tool calls so far, and a few numbers; nothing of it grows with
/// the text of the answer.
///
/// ```
/// use std::time::Duration;
///
/// use bytes::BytesMut;
/// use jiff::Timestamp;
/// use llamatower::openai::Transcoder;
/// use llamatower::openai::line::{Moment, Shape};
///
/// let now = Moment { elapsed: Duration::from_millis(5), wall: Timestamp::UNIX_EPOCH };
/// let mut transcoder = Transcoder::new(Shape::Chat, "tiny");
/// let mut lines = BytesMut::new();
/// let event = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
/// transcoder.push(event, now, &mut lines).expect("a complete event");
/// assert_eq!(
///     lines,
///     "{\"model\":\"tiny\",\"created_at\":\"1970-01-01T00:00:00Z\",\
///      \"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"done\":false}\n"
/// );
/// assert!(transcoder.end().is_err(), "neither finish_reason nor [DONE]");
/// ```
#[derive(Debug)]
pub struct Transcoder {
    writer: Writer,
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
    event: Event,
    progress: Progress,
    is_done: bool,
}

/// The event that is being read, if one line does not tell all of it.
#[derive(Debug, Default)]
struct Event {
    /// A line of the stream has been read: a byte order mark can only be before it.
    has_begun: bool,
    /// Its type is `error`.
    is_error: bool,
    /// Its data so far, if the lines until now are no whole chunk.
    data: Vec<u8>,
}

impl Event {
    /// Adds a line of data. The lines are joined by line feeds (HTML 9.2.6, server-sent events).
    fn add(&mut self, line: &[u8]) -> Result<(), StreamFault> {
        if self.data.len() + line.len() > MAX_LINE {
            return Err(StreamFault::Broken(TOO_LONG));
        }
        if !self.data.is_empty() {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(line);
        Ok(())
    }

    /// The error that the server has sent with an event of the type `error`: JSON or any text.
    fn error(&self) -> Option<StreamFault> {
        (self.is_error && !self.data.is_empty()).then(|| {
            let data = serde_json::from_slice(&self.data);
            let data: Value = data.unwrap_or_else(|_| String::from_utf8_lossy(&self.data).into());
            fault(data.get("error").unwrap_or(&data))
        })
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const TOO_LONG: &str = "a line of it is too long";
const NO_CHUNK: &str = "an event of it is not a chunk";

/// What the final line needs.
#[derive(Debug, Default)]
struct Progress {
    calls: ToolCalls,
    first_token: Option<Duration>,
    last_token: Duration,
    /// Events with a part of the answer; in most servers one is one token.
    events: u64,
    usage: Usage,
    phases: Option<(Duration, Duration)>,
    finish_reason: Option<Box<str>>,
}

impl Transcoder {
    /// `model` is the name as the client wrote it.
    pub fn new(shape: Shape, model: &str) -> Self {
        Self {
            writer: Writer::new(shape, model),
            partial: Vec::new(),
            event: Event::default(),
            progress: Progress::default(),
            is_done: false,
        }
    }

    /// Whether the final line was written. Anything that follows is ignored.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Translates the next bytes; `now` is the time of their arrival. Complete lines are added to
    /// `lines`.
    ///
    /// # Errors
    /// The server has sent an error, or what it sends is not OpenAI's dialect. The lines before it
    /// are in `lines`.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        now: Moment,
        lines: &mut BytesMut,
    ) -> Result<(), StreamFault> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.partial.is_empty() {
                self.line(line, now, lines)?;
                continue;
            }
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(line);
            let read = self.line(&whole, now, lines);
            whole.clear();
            self.partial = whole;
            read?;
        }
        if self.partial.len() + bytes.len() > MAX_LINE {
            return Err(StreamFault::Broken(TOO_LONG));
        }
        if !self.is_done {
            self.partial.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// It is incomplete: only `[DONE]` after a `finish_reason` makes an answer complete.
    pub fn end(&self) -> Result<(), StreamFault> {
        match (self.is_done, self.event.error()) {
            (true, _) => Ok(()),
            (false, Some(error)) => Err(error),
            (false, None) => Err(StreamFault::Broken("it ended before its last event")),
        }
    }

    /// One line of the stream. Most servers send the data of an event as a single line, so a line that
    /// is a whole chunk is read at once, and the empty line after it does nothing.
    fn line(&mut self, line: &[u8], now: Moment, lines: &mut BytesMut) -> Result<(), StreamFault> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.is_done {
            return Ok(());
        }
        let is_first = !std::mem::replace(&mut self.event.has_begun, true);
        let line = match is_first {
            true => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line),
            false => line,
        };
        if line.is_empty() {
            return self.end_event(now, lines);
        }
        if let Some(name) = line.strip_prefix(b"event:") {
            self.event.is_error = name.trim_ascii() == b"error";
            return Ok(());
        }
        // Older llama.cpp servers send an error in a field of this name.
        if let Some(error) = line.strip_prefix(b"error:") {
            let error = serde_json::from_slice(error);
            return Err(fault(&error.unwrap_or(Value::Bool(true))));
        }
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        let data = data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if self.event.is_error || !self.event.data.is_empty() {
            return self.event.add(data);
        }
        if data == b"[DONE]" {
            return self.finish(now, lines);
        }
        match serde_json::from_slice::<Chunk<'_>>(data) {
            Ok(chunk) => self.chunk(&chunk, now, lines),
            Err(_) => self.event.add(data),
        }
    }

    /// The empty line after an event.
    fn end_event(&mut self, now: Moment, lines: &mut BytesMut) -> Result<(), StreamFault> {
        if let Some(error) = self.event.error() {
            return Err(error);
        }
        self.event.is_error = false;
        let data = std::mem::take(&mut self.event.data);
        if data.is_empty() {
            return Ok(());
        }
        let chunk: Chunk<'_> =
            serde_json::from_slice(&data).map_err(|_| StreamFault::Broken(NO_CHUNK))?;
        self.chunk(&chunk, now, lines)
    }

    fn chunk(
        &mut self,
        chunk: &Chunk<'_>,
        now: Moment,
        lines: &mut BytesMut,
    ) -> Result<(), StreamFault> {
        if let Some(error) = chunk.error() {
            return Err(fault(error));
        }
        let progress = &mut self.progress;
        progress.usage = chunk.usage().unwrap_or(progress.usage);
        progress.phases = chunk.phases().or(progress.phases);
        let Some(choice) = &chunk.choices.0 else {
            return Ok(());
        };
        if !choice.has_texts_only() {
            return Err(StreamFault::Broken("a part of the answer is not a text"));
        }
        progress.read(choice, now.elapsed)?;
        let item = Item {
            content: choice.content(),
            thinking: choice.thinking(),
            logprobs: choice.logprobs(),
            ..Item::default()
        };
        if item.content.is_some() || item.thinking.is_some() || item.logprobs.is_some() {
            self.writer.item(lines, now.wall, &item);
            lines.put_u8(b'\n');
        }
        Ok(())
    }

    /// Writes the tool calls and the final line.
    fn finish(&mut self, now: Moment, lines: &mut BytesMut) -> Result<(), StreamFault> {
        let Progress {
            calls,
            first_token,
            last_token,
            events,
            usage,
            phases,
            finish_reason: Some(finish_reason),
        } = &self.progress
        else {
            return Err(StreamFault::Broken("it ended without a finish_reason"));
        };
        if !calls.is_empty() {
            let mut written = BytesMut::new();
            let is_cut = &**finish_reason == "length";
            calls
                .write(&mut written, is_cut)
                .map_err(StreamFault::Unusable)?;
            let item = Item {
                tool_calls: Some(&written),
                ..Item::default()
            };
            if written.len() > "[]".len() {
                self.writer.item(lines, now.wall, &item);
                lines.put_u8(b'\n');
            }
        }
        let first = first_token.unwrap_or(now.elapsed);
        let (prompt, output) = phases.unwrap_or((first, last_token.saturating_sub(first)));
        let end = End {
            reason: done_reason(finish_reason),
            prompt_tokens: usage.prompt_tokens,
            // Some servers ignore `include_usage`; programs compute the speed from this count.
            output_tokens: usage.completion_tokens.or(Some(*events)),
            total: now.elapsed,
            prompt,
            output,
        };
        let item = Item {
            end: Some(&end),
            ..Item::default()
        };
        self.writer.item(lines, now.wall, &item);
        lines.put_u8(b'\n');
        self.is_done = true;
        Ok(())
    }
}

impl Progress {
    fn read(&mut self, choice: &Choice<'_>, elapsed: Duration) -> Result<(), StreamFault> {
        let calls = choice
            .message()
            .and_then(|message| message.tool_calls.as_ref());
        for part in calls.into_iter().flatten() {
            self.calls.add(part).map_err(StreamFault::Unusable)?;
        }
        let has_calls = calls.is_some_and(|calls| !calls.is_empty());
        let has_token = has_calls || choice.content().is_some() || choice.thinking().is_some();
        if has_token {
            self.first_token.get_or_insert(elapsed);
            self.last_token = elapsed;
            self.events += 1;
        }
        if let Some(reason) = choice
            .finish_reason
            .as_ref()
            .filter(|text| !text.0.is_empty())
        {
            self.finish_reason = Some((&*reason.0).into());
        }
        Ok(())
    }
}

/// Ollama's name for a `finish_reason`. Ollama ends a message with tool calls by `stop`.
pub(super) fn done_reason(finish_reason: &str) -> &str {
    match finish_reason {
        "tool_calls" | "function_call" => "stop",
        other => other,
    }
}

fn fault(error: &Value) -> StreamFault {
    let message = message_in(error).filter(|text| !text.is_empty());
    StreamFault::Error {
        message: message.unwrap_or_else(|| "the server sent an error without a text".to_owned()),
        status: status_in(error),
    }
}

#[cfg(test)]
mod tests;
