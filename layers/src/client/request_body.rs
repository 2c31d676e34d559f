//! The request body, made `Sync`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use sync_wrapper::SyncWrapper;

pin_project! {
    /// A body that is `Sync` because it is only read through an exclusive reference. Its length is
    /// noted after each frame, so that it can be told without one.
    pub(super) struct SyncBody<B> {
        #[pin]
        inner: SyncWrapper<B>,
        is_end_stream: bool,
        size_hint: SizeHint,
    }
}

impl<B: Body> SyncBody<B> {
    pub(super) fn new(inner: B) -> Self {
        Self {
            is_end_stream: inner.is_end_stream(),
            size_hint: inner.size_hint(),
            inner: SyncWrapper::new(inner),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for SyncBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut inner = this.inner.get_pin_mut();
        let frame = ready!(inner.as_mut().poll_frame(cx));
        *this.is_end_stream = inner.is_end_stream();
        *this.size_hint = inner.size_hint();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}
