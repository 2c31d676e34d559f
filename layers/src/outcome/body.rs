//! The body of a response, observed until its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Ending;
use super::completion::Completion;
use crate::body::RemainingLength;

pin_project! {
    /// A body whose end completes the record of its request.
    #[derive(Debug, Default)]
    pub struct OutcomeBody<B> {
        #[pin]
        inner: B,
        completion: Option<Completion>,
        rest: RemainingLength,
    }
}

impl<B: Body> OutcomeBody<B> {
    pub(super) fn new(
        inner: B,
        rest: RemainingLength,
        has_no_body: bool,
        mut completion: Option<Completion>,
    ) -> Self {
        if has_no_body || rest.is_over() || inner.is_end_stream() {
            finish(&mut completion, Ending::Complete);
        }
        Self {
            inner,
            completion,
            rest,
        }
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
                this.rest.count(frame);
                let is_last = frame.is_trailers() || this.rest.is_over();
                if is_last || this.inner.is_end_stream() {
                    finish(this.completion, Ending::Complete);
                }
            }
            // Fewer bytes than declared: the connection ends unclean.
            None if this.rest.is_incomplete() => fail(this.completion),
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
