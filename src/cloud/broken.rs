//! Errors in the middle of an event stream that passes unaltered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::frames::Framing;
use llamatower_layers::{BoxError, Fail, Failure, Side};
use memchr::memmem;
use memchr::memrchr;
use pin_project_lite::pin_project;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::openai::error::text_of;

/// A line that is longer passes without being read, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// The member of Groq's own in a chunk.
const X_GROQ: &[u8] = b"\"x_groq\"";

/// The service has ended a stream with an error of its own (`x_groq.error`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cloud service ended its response with an error: {message}")]
pub struct CloudError {
    message: String,
}

impl Fail for CloudError {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "cloud_error"
    }
}

pin_project! {
    /// A body that fails at a chunk with `x_groq.error`, in place of sending it: clients do not read
    /// that member, and would take the text until there for a complete answer. Lines are sent when
    /// they are complete, so that the failure is at the border of two events.
    #[derive(Debug)]
    pub struct EventsBody<R> {
        #[pin]
        inner: R,
        // `None` for a body that is no event stream.
        lines: Option<Lines>,
        ready: VecDeque<Result<Bytes, CloudError>>,
    }
}

/// Wraps the body of an answer.
pub(super) fn watch<R>(answer: Response<R>) -> Response<EventsBody<R>> {
    let is_events = Framing::of(answer.headers()) == Some(Framing::Sse);
    answer.map(|inner| EventsBody {
        inner,
        lines: is_events.then(Lines::default),
        ready: VecDeque::new(),
    })
}

#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line.
    partial: BytesMut,
}

impl Lines {
    /// The lines that are complete with `frame`; those before an error if one has an error.
    fn push(&mut self, mut frame: Bytes) -> (Bytes, Option<CloudError>) {
        let end = memrchr(b'\n', &frame).map_or(0, |at| at + 1);
        let mut lines = frame.split_to(end);
        if !lines.is_empty() && !self.partial.is_empty() {
            self.partial.extend_from_slice(&lines);
            lines = self.partial.split().freeze();
        }
        self.partial.extend_from_slice(&frame);
        if self.partial.len() > LONGEST_LINE {
            lines = [lines, self.partial.split().freeze()].concat().into();
        }
        match error_in(&lines) {
            None => (lines, None),
            Some((at, error)) => (lines.slice(..at), Some(error)),
        }
    }
}

/// The first error in these lines, and where its line begins.
fn error_in(lines: &[u8]) -> Option<(usize, CloudError)> {
    // The member is in the first and the last chunk only.
    memmem::find(lines, X_GROQ)?;
    let mut at = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if let Some(message) = message_in(line) {
            return Some((at, CloudError { message }));
        }
        at += line.len();
    }
    None
}

fn message_in(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        #[serde(borrow)]
        x_groq: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct XGroq {
        #[serde(default)]
        error: Value,
    }
    let data = line.strip_prefix(b"data:")?;
    let chunk: Chunk<'_> = serde_json::from_slice(data).ok()?;
    let x_groq = chunk.x_groq?.get();
    let error = serde_json::from_str::<XGroq>(x_groq).ok()?.error;
    let is_error = !matches!(error, Value::Null | Value::Bool(false));
    is_error.then(|| text_of(x_groq.as_bytes()))
}

impl<R> Body for EventsBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(lines) = this.lines else {
            return this.inner.poll_frame(cx).map_err(Into::into);
        };
        loop {
            if let Some(ready) = this.ready.pop_front() {
                let ready = ready.map(Frame::data);
                return Poll::Ready(Some(ready.map_err(|error| Failure::from(error).into())));
            }
            match ready!(this.inner.as_mut().poll_frame(cx)) {
                None if lines.partial.is_empty() => return Poll::Ready(None),
                None => this.ready.push_back(Ok(lines.partial.split().freeze())),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    Ok(data) => {
                        let (complete, error) = lines.push(data);
                        if !complete.is_empty() {
                            this.ready.push_back(Ok(complete));
                        }
                        this.ready.extend(error.map(Err));
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_empty = |lines: &Lines| lines.partial.is_empty();
        self.ready.is_empty()
            && self.lines.as_ref().is_none_or(is_empty)
            && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.lines {
            None => self.inner.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const START: &str = "data: {\"x_groq\":{\"id\":\"req_1\"},\"choices\":[]}\n\n";
    const TEXT: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"x_groq\\\": {\\\"error\\\"}\"}}]}\n\n";

    /// What comes out of a stream in frames of this size, and its error.
    async fn read(text: &str, size: usize) -> (String, Option<String>) {
        let frames: Vec<_> = text.as_bytes().chunks(size).collect();
        let frames = frames
            .into_iter()
            .map(|frame| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(frame))));
        let answer = Response::builder().header("content-type", "text/event-stream");
        let frames: Vec<_> = frames.collect();
        let answer = answer.body(StreamBody::new(stream::iter(frames))).unwrap();
        let mut body = watch(answer).into_body();
        let mut out = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => out.extend_from_slice(&frame.into_data().unwrap()),
                Err(error) => return (String::from_utf8(out).unwrap(), Some(error.to_string())),
            }
        }
        (String::from_utf8(out).unwrap(), None)
    }

    #[tokio::test]
    async fn an_error_breaks_the_stream_at_the_border_of_an_event_in_any_split() {
        let error = "data: {\"choices\":[],\"x_groq\":{\"error\":\"over capacity\"}}\n\n";
        let text = [START, TEXT, error, TEXT].concat();
        for size in 1..text.len() + 1 {
            let (passed, broken) = read(&text, size).await;
            assert_eq!(passed, [START, TEXT].concat());
            assert!(broken.unwrap().ends_with(": over capacity"));
        }
    }

    #[tokio::test]
    async fn all_other_streams_pass_as_they_are() {
        let last = "data: {\"x_groq\":{\"usage\":{\"total_tokens\":3},\"error\":null}}\n\n";
        for text in [
            [START, TEXT, last, "data: [DONE]\n\n"].concat(),
            [START, TEXT, "data: cut"].concat(),
            "x".repeat(LONGEST_LINE * 2),
        ] {
            for size in [7, 100_000] {
                assert_eq!(read(&text, size).await, (text.clone(), None));
            }
        }
    }
}
