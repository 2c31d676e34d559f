//! The measured unit: one request through a service, from the call to the last frame.
//!
//! There is no socket, and no runtime runs. A pass is polled by hand. Everything that a client
//! waits for is pending once: the head and each chunk. So the layers do the same work as when
//! tokens arrive one by one.

use std::fmt::Debug;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use llamatower_layers::BoxError;
use pin_project_lite::pin_project;
use tower::Service;

const PROMPT: &str = r#"{"model":"llama3.2","messages":[{"role":"user","content":"Why is the sky blue? Answer in one sentence."}],"stream":true}"#;
const LINE: &[u8] = b"{\"model\":\"llama3.2\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\" blue\"},\"done\":false}\n";
const LAST: &[u8] = b"{\"model\":\"llama3.2\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"eval_count\":20}\n";

/// The API key of the request, and its digest.
pub(crate) const KEY: &str = "llt_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
pub(crate) const KEY_DIGEST: &str =
    "6fc7aef446921d241e175645fa9459a1e6df048510021cc2ec6b2476991edaa9";

/// The address of a client, as servers put it into the extensions of each request.
#[derive(Clone, Copy)]
pub(crate) struct PeerAddr(pub(crate) std::net::SocketAddr);

/// The type of request bodies.
pub(crate) type ClientBody = Full<Bytes>;

/// A request that a chat client sends, with its key.
pub(crate) fn request() -> Request<ClientBody> {
    Request::post("/api/chat")
        .header(header::HOST, "llm.example:11434")
        .header(header::USER_AGENT, "ollama-python/0.6.1")
        .header(header::ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, PROMPT.len())
        .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
        .extension(PeerAddr(([127, 0, 0, 1], 4711).into()))
        .body(Full::from(PROMPT))
        .expect("a valid request")
}

/// Sends the request and reads the answer to its end. Returns whether the service served it: an error
/// or another status than a success is a refusal.
pub(crate) fn is_served<S, R, B>(mut service: S, request: Request<B>) -> bool
where
    S: Service<Request<B>, Response = Response<R>, Error: Debug>,
    R: Body<Data = Bytes, Error: Debug>,
{
    let cx = &mut Context::from_waker(Waker::noop());
    let ready = service.poll_ready(cx);
    assert!(matches!(ready, Poll::Ready(Ok(()))), "there is no wait");
    let mut call = pin!(service.call(request));
    let Ok(answer) = until_ready(|| call.as_mut().poll(cx)) else {
        return false;
    };
    let is_served = answer.status().is_success();
    let mut body = pin!(answer.into_body());
    while let Some(frame) = until_ready(|| body.as_mut().poll_frame(cx)) {
        black_box(frame.expect("no body fails here"));
    }
    is_served
}

fn until_ready<T>(mut poll: impl FnMut() -> Poll<T>) -> T {
    loop {
        if let Poll::Ready(value) = poll() {
            return value;
        }
    }
}

/// Reads the whole request and answers with a stream, by default of lines as Ollama sends them.
#[derive(Clone)]
pub(crate) struct Backend {
    answer_data: Arc<AnswerData>,
}

impl Backend {
    /// A backend whose answers have this type, and end with `last` after some `line`s.
    pub(crate) fn answering(content_type: &'static str, line: &[u8], last: &[u8]) -> Self {
        // Parts of a reference-counted buffer, as frames from a socket are.
        let buffer = Bytes::from([line, last].concat());
        Self {
            answer_data: Arc::new(AnswerData {
                chunks: AtomicUsize::new(0),
                content_type,
                line: buffer.slice(..line.len()),
                last: buffer.slice(line.len()..),
            }),
        }
    }

    /// Sets the number of chunks before the last line of an answer.
    pub(crate) fn set_chunks(&self, chunks: usize) {
        self.answer_data.chunks.store(chunks, Ordering::Relaxed);
    }

    /// The body of an answer.
    pub(crate) fn lines(&self) -> Lines {
        Lines {
            left: self.answer_data.chunks.load(Ordering::Relaxed) + 1,
            answer_data: self.answer_data.clone(),
            has_waited: false,
        }
    }
}

/// The data of all answers.
#[derive(Default)]
struct AnswerData {
    chunks: AtomicUsize,
    content_type: &'static str,
    line: Bytes,
    last: Bytes,
}

impl Default for Backend {
    fn default() -> Self {
        Self::answering("application/x-ndjson", LINE, LAST)
    }
}

impl<B: Body> Service<Request<B>> for Backend {
    type Response = Response<Lines>;
    type Error = BoxError;
    type Future = Answering<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering<B> {
        Answering {
            body: request.into_body(),
            lines: Some(self.lines()),
            has_waited: false,
        }
    }
}

pin_project! {
    pub(crate) struct Answering<B> {
        #[pin]
        body: B,
        lines: Option<Lines>,
        has_waited: bool,
    }
}

impl<B: Body> Future for Answering<B> {
    type Output = Result<Response<Lines>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        while !this.body.is_end_stream() && ready!(this.body.as_mut().poll_frame(cx)).is_some() {}
        if !std::mem::replace(this.has_waited, true) {
            return Poll::Pending;
        }
        let lines = this.lines.take().expect("a future ends once");
        let content_type = HeaderValue::from_static(lines.answer_data.content_type);
        let mut answer = Response::new(lines);
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
        Poll::Ready(Ok(answer))
    }
}

/// Lines, each of them pending once. The default is an empty body, which some layers answer with.
#[derive(Clone, Default)]
pub(crate) struct Lines {
    answer_data: Arc<AnswerData>,
    left: usize,
    has_waited: bool,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let has_waited = self.has_waited;
        self.has_waited = !has_waited;
        if !has_waited {
            return Poll::Pending;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left = left;
        let line = match left {
            0 => &self.answer_data.last,
            _ => &self.answer_data.line,
        };
        Poll::Ready(Some(Ok(Frame::data(line.clone()))))
    }
}
