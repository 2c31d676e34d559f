//! The answer until its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Ending;
use super::completion::Completion;

pin_project! {
    /// A body whose end completes the record of its request.
    #[derive(Debug)]
    pub struct OutcomeBody<B> {
        #[pin]
        inner: B,
        completion: Option<Completion>,
        // What is still to come, where the head or the body has told the length. hyper does not
        // poll a body again that has given as much, whether or not it says that it is at its end.
        remaining: Option<u64>,
    }
}

impl<B: Body> OutcomeBody<B> {
    pub(super) fn new(
        inner: B,
        headers: &HeaderMap,
        has_no_body: bool,
        completion: Option<Completion>,
    ) -> Self {
        let remaining = declared_length(headers).or_else(|| inner.size_hint().exact());
        let mut body = Self {
            inner,
            completion,
            remaining,
        };
        if has_no_body || remaining == Some(0) || body.inner.is_end_stream() {
            finish(&mut body.completion, Ending::Complete);
        }
        body
    }
}

fn finish(completion: &mut Option<Completion>, ending: Ending) {
    if let Some(mut completion) = completion.take() {
        completion.finish(ending);
    }
}

fn fail(completion: &mut Option<Completion>) {
    if let Some(mut completion) = completion.take() {
        completion.fail();
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<B: Body> Body for OutcomeBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(remaining), Some(data)) = (this.remaining.as_mut(), frame.data_ref()) {
                    *remaining = remaining.saturating_sub(data.remaining() as u64);
                }
                let is_last = frame.is_trailers() || *this.remaining == Some(0);
                if is_last || this.inner.is_end_stream() {
                    finish(this.completion, Ending::Complete);
                }
            }
            // Fewer bytes than were promised end the connection unclean.
            None if !matches!(*this.remaining, None | Some(0)) => fail(this.completion),
            None => finish(this.completion, Ending::Complete),
            Some(Err(_)) => fail(this.completion),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
