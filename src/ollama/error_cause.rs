//! Finds out whether a server is the cause of its error response.
//!
//! Ollama answers 500 for most of what goes wrong after it has read a request, also for mistakes in the
//! request. Only the text tells them from failures of the server. This module is the one that knows
//! these texts.

use std::future::{Future, Ready, poll_fn, ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use http::header::CONTENT_ENCODING;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{BoxError, ErrorCause};
use tokio::time::timeout;

use super::AnswerBody;
use crate::openai::error::text_of;

/// The longest error response that is read for its text, in bytes.
const MAX_BYTES: usize = 16 << 10;
/// The time limit for reading it. Usually it has arrived together with its head.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The cause of an error of Ollama with status 500, by its text; `None` if the server may be the cause.
/// The texts are those of the versions 0.17.4 and 0.33.0-rc2, and that of the repeated token is of 0.34.1
/// (pull request 18374 of Ollama), before which such a response ended without an error.
pub(super) fn cause_of(text: &str) -> Option<ErrorCause> {
    let begins = |beginning: &str| text.starts_with(beginning);
    // `option "stop" must be of type array`, `.. must be of an array of strings`
    let is_option = begins("option \"") && text.contains("\" must be of ");
    // Seen in the source of 0.17.4 alone: a prompt without tokens, and images that are none.
    let sequence = ["Failed to", "failed to"]
        .iter()
        .find_map(|begin| {
            text.strip_prefix(begin)?
                .strip_prefix(" create new sequence: ")
        })
        .unwrap_or_default();
    let is_request = is_option
        || sequence == "no input provided"
        || sequence.starts_with("failed to process inputs: image: ")
        || sequence.starts_with("failed to process inputs: invalid image index: ")
        || begins("invalid format: ")
        || begins("invalid JSON schema in format")
        // A number of the options that is too large for its type, such as a temperature of 1e300.
        || begins("failed to marshal data: json: unsupported value")
        // Only from `/api/embeddings`; the other routes answer 400.
        || begins("the input length exceeds the context length")
        // `/api/embed` without a model.
        || begins("unqualified name: ");
    // A template is the model's, or that of the request on `/api/generate`.
    let is_template = begins("template: ")
        || matches!(
            text,
            "undefined template specified" | "undefined action in template" | "undefined branch"
        );
    let is_model = is_template
        || begins("this model only supports one image while more than one image")
        // The model has generated one token again and again. Another server would do the same, for as long.
        || begins("prediction aborted, token repeat limit reached");
    match (is_request, is_model) {
        (true, _) => Some(ErrorCause::Request),
        (false, true) => Some(ErrorCause::Model),
        (false, false) => None,
    }
}

/// The left future has the response at once. The right one reads its text, and is boxed, because it is
/// rare and large.
type WithCause =
    Either<Ready<Response<AnswerBody>>, Pin<Box<dyn Future<Output = Response<AnswerBody>> + Send>>>;

/// Reads the text of a response with status 500, and puts its cause into the extensions of the
/// response. The body stays as it is.
pub(super) fn with_cause(answer: Response<AnswerBody>) -> WithCause {
    if answer.status() != StatusCode::INTERNAL_SERVER_ERROR
        || answer.headers().contains_key(CONTENT_ENCODING)
        || answer.body().size_hint().lower() > MAX_BYTES as u64
    {
        return Either::Left(ready(answer));
    }
    Either::Right(Box::pin(read_cause(answer)))
}

async fn read_cause(answer: Response<AnswerBody>) -> Response<AnswerBody> {
    let (mut head, mut rest) = answer.into_parts();
    let mut first = BytesMut::new();
    let reading = poll_fn(|cx| poll_read(&mut rest, &mut first, cx));
    // What has arrived until then is passed on, and the rest when it arrives.
    let read = timeout(READ_TIMEOUT, reading).await;
    if matches!(read, Ok(Ok(true)))
        && let Some(cause) = cause_of(&text_of(&first))
    {
        head.extensions.insert(cause);
    }
    let first = Some(first.freeze()).filter(|first| !first.is_empty());
    // A body that breaks off is passed on like that: the status decides whether there is a retry.
    let error = read.ok().and_then(Result::err);
    let body = AnswerBody::new(PartlyRead { first, error, rest });
    Response::from_parts(head, body)
}

/// Reads a body to its end, or until it is too long. Returns whether it is the whole body.
fn poll_read(
    body: &mut AnswerBody,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Result<bool, BoxError>> {
    while !body.is_end_stream() && read.len() <= MAX_BYTES {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            // An error response of Ollama has no trailers.
            Some(frame) => read.extend_from_slice(&frame?.into_data().unwrap_or_default()),
            None => return Poll::Ready(Ok(true)),
        }
    }
    Poll::Ready(Ok(read.len() <= MAX_BYTES))
}

/// A body of which the first part was read.
struct PartlyRead {
    first: Option<Bytes>,
    /// How reading it has ended.
    error: Option<BoxError>,
    rest: AnswerBody,
}

impl Body for PartlyRead {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match self.error.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None if self.rest.is_end_stream() => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.error.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    #[test]
    fn a_mistake_of_the_request_or_the_model_is_known_by_its_text() {
        use ErrorCause::{Model, Request};
        // As Ollama 0.17.4 sends them, in the three dialects.
        for (body, cause) in [
            (
                r#"{"error":"option \"stop\" must be of type array"}"#,
                Request,
            ),
            (
                r#"{"error":"option \"stop\" must be of an array of strings"}"#,
                Request,
            ),
            (
                r#"{"error":"option \"temperature\" must be of type float32"}"#,
                Request,
            ),
            (
                r#"{"error":"invalid format: \"\\\"xml\\\"\"; expected \"json\" or a valid JSON Schema object"}"#,
                Request,
            ),
            (r#"{"error":"invalid JSON schema in format"}"#, Request),
            (
                r#"{"error":{"message":"invalid JSON schema in format","type":"api_error","param":null,"code":null}}"#,
                Request,
            ),
            (
                r#"{"type":"error","error":{"type":"api_error","message":"invalid JSON schema in format"},"request_id":"req_bb60"}"#,
                Request,
            ),
            (
                r#"{"error":"failed to marshal data: json: unsupported value: +Inf"}"#,
                Request,
            ),
            (
                r#"{"error":"the input length exceeds the context length"}"#,
                Request,
            ),
            (
                r#"{"error":"unqualified name: registry.ollama.ai/library/!MISSING!:latest"}"#,
                Request,
            ),
            (
                r#"{"error":"Failed to create new sequence: failed to process inputs: image: unknown format"}"#,
                Request,
            ),
            (
                r#"{"error":"failed to create new sequence: no input provided"}"#,
                Request,
            ),
            (r#"{"error":"template: :1: unclosed action"}"#, Model),
            (
                r#"{"error":"template: :1:3: executing \"\" at \u003cindex .Messages 5\u003e: error calling index: index out of range: 5"}"#,
                Model,
            ),
            (r#"{"error":"undefined template specified"}"#, Model),
            (
                r#"{"error":"prediction aborted, token repeat limit reached"}"#,
                Model,
            ),
        ] {
            assert_eq!(cause_of(&text_of(body.as_bytes())), Some(cause), "{body}");
        }
        for text in [
            "llama runner process has terminated: exit status 2",
            "llama-server process has terminated: signal: killed",
            "model requires more system memory (9.1 GiB) than is available (3.2 GiB)",
            "model runner has unexpectedly stopped, this may be due to resource limitations or an \
             internal error, check ollama server logs for details",
            "an option \"x\" must be of type y",
            "",
        ] {
            assert_eq!(cause_of(text), None, "{text}");
        }
    }

    const MISTAKE: &str = r#"{"error":"invalid JSON schema in format"}"#;

    fn answer<B>(status: u16, body: B) -> Response<AnswerBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = AnswerBody::new(body.map_err(Into::into));
        Response::builder().status(status).body(body).unwrap()
    }

    async fn cause_and_body(answer: Response<AnswerBody>) -> (Option<ErrorCause>, Bytes) {
        let answer = with_cause(answer).await;
        let cause = ErrorCause::of(answer.extensions());
        (
            cause,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    #[tokio::test]
    async fn the_body_stays_as_it_is() {
        let whole = |status| answer(status, Full::from(MISTAKE));
        let found = cause_and_body(whole(500)).await;
        assert_eq!(found, (Some(ErrorCause::Request), MISTAKE.into()));
        assert_eq!(cause_and_body(whole(200)).await, (None, MISTAKE.into()));
        let (first, second) = MISTAKE.split_at(9);
        let parts = [first, second].map(|part| Ok::<_, BoxError>(Frame::data(part.into())));
        let parts = StreamBody::new(futures_util::stream::iter(parts));
        let found = cause_and_body(answer(500, parts)).await;
        assert_eq!(found, (Some(ErrorCause::Request), MISTAKE.into()));
        let known = with_cause(whole(500)).await;
        assert_eq!(known.body().size_hint().exact(), Some(MISTAKE.len() as u64));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_passed_on_with_its_status_and_its_error() {
        let parts = [Ok(Frame::data(Bytes::from_static(b"{"))), Err("broken")];
        let parts = StreamBody::new(futures_util::stream::iter(parts));
        let answer = with_cause(answer(500, parts)).await;
        assert_eq!(answer.status(), 500);
        assert!(ErrorCause::of(answer.extensions()).is_none());
        let mut body = answer.into_body();
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "{");
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame().await.unwrap().unwrap_err().to_string(),
            "broken"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_late_or_too_long_is_passed_on_without_a_cause() {
        let long = format!("{MISTAKE}{}", " ".repeat(MAX_BYTES));
        let chunks = [MISTAKE.into(), Bytes::from(long.clone())];
        let chunks = chunks.map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)));
        let stream = StreamBody::new(futures_util::stream::iter(chunks));
        let found = cause_and_body(answer(500, stream)).await;
        assert_eq!(found, (None, format!("{MISTAKE}{long}").into()));
        let late = futures_util::stream::unfold(0, async |part| {
            tokio::time::sleep(READ_TIMEOUT * part).await;
            let data = Frame::data(Bytes::from_static(b"{}"));
            (part < 3).then_some((Ok::<_, BoxError>(data), part + 1))
        });
        let found = cause_and_body(answer(500, StreamBody::new(Box::pin(late)))).await;
        assert_eq!(found, (None, "{}{}{}".into()));
    }
}
