//! The lines of one server's progress.

use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use llamatower_layers::BoxError;
use llamatower_layers::route::Choice;
use serde::Deserialize;
use tower::{Service, ServiceExt};

use super::super::attempt::AnswerBody;
use super::failed::{error_text, text_of};
use super::whole_body;

/// Limit of a line, in bytes. Ollama's lines of progress are some hundred bytes long.
const MAX_LINE: usize = 1024 * 1024;

/// What a server has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A line with a JSON object, without its line feed.
    Line(Bytes),
    /// It has failed, for this reason. Nothing follows.
    Failed(String),
}

type Asking = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, BoxError>> + Send>>;

enum State<G> {
    /// The request is sent when this is polled.
    Begin(Asking, G),
    Reading(Reading<G>),
    Over,
}

struct Reading<G> {
    body: AnswerBody,
    held: BytesMut,
    /// Whether the last line was Ollama's `success`.
    has_succeeded: bool,
    _slot: G,
}

#[derive(Deserialize)]
struct Line {
    status: Option<String>,
    error: Option<String>,
}

/// Sends the request to its server, and reads its lines. Dropping the stream cancels the request.
pub(super) fn of<S, G, B>(choice: Choice<S, G>, request: Request<B>) -> BoxStream<'static, Event>
where
    S: Service<Request<B>, Response = Response<AnswerBody>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    G: Send + 'static,
    B: Send + 'static,
{
    let asking = Box::pin(choice.service.oneshot(request));
    stream::unfold(State::Begin(asking, choice.slot), step).boxed()
}

/// The next event, and the state after it.
async fn step<G>(state: State<G>) -> Option<(Event, State<G>)> {
    let reading = match state {
        State::Begin(asking, slot) => begin_reading(asking, slot).await,
        State::Reading(reading) => Ok(reading),
        State::Over => return None,
    };
    let mut reading = match reading {
        Ok(reading) => reading,
        Err(reason) => return Some((Event::Failed(reason), State::Over)),
    };
    match reading.next().await {
        Some(Ok(line)) => Some((Event::Line(line), State::Reading(reading))),
        Some(Err(reason)) => Some((Event::Failed(reason), State::Over)),
        None => None,
    }
}

async fn begin_reading<G>(asking: Asking, slot: G) -> Result<Reading<G>, String> {
    let answer = asking.await.map_err(|error| text_of(&*error))?;
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::OK {
        let text = whole_body(body).await.ok();
        let text = text.and_then(|text| error_text(&text));
        return Err(text.unwrap_or_else(|| format!("it answered with status {}", head.status)));
    }
    Ok(Reading {
        body,
        held: BytesMut::new(),
        has_succeeded: false,
        _slot: slot,
    })
}

impl<G> Reading<G> {
    /// The next line; `None` at the end of a response that has succeeded.
    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.held) {
                let line = self.held.split_to(end + 1).freeze();
                match self.read(line.slice(..end)) {
                    None => continue,
                    line => return line,
                }
            }
            if self.held.len() > MAX_LINE {
                return Some(Err(format!("it sent a line of more than {MAX_LINE} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.held.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Some(Err(text_of(&*error))),
                None => return self.end(),
            }
        }
    }

    /// Reads a line; `None` if it is blank.
    fn read(&mut self, line: Bytes) -> Option<Result<Bytes, String>> {
        let line = line.slice_ref(line.trim_ascii());
        if line.is_empty() {
            return None;
        }
        let parsed: Line = match serde_json::from_slice(&line) {
            Ok(parsed) => parsed,
            Err(_) => return Some(Err("it sent a line that is not Ollama's".to_owned())),
        };
        if let Some(error) = parsed.error {
            return Some(Err(error));
        }
        self.has_succeeded = parsed.status.as_deref() == Some("success");
        Some(Ok(line))
    }

    fn end(&mut self) -> Option<Result<Bytes, String>> {
        // The last line may come without a line feed.
        let rest = self.held.split().freeze();
        if let Some(line) = self.read(rest) {
            return Some(line);
        }
        let reason = || Err("its response ended before the pull was complete".to_owned());
        (!self.has_succeeded).then(reason)
    }
}
