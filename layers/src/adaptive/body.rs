//! The body of a response, measured until its first frame.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::permit::Measurement;

pin_project! {
    /// A body whose first frame ends a measurement. See the [module](super).
    #[derive(Debug, Default)]
    pub struct AdaptiveBody<B> {
        #[pin]
        inner: B,
        measurement: Measurement,
    }
}

impl<B: Body> AdaptiveBody<B> {
    /// Wraps `inner`. If it is at its end already, the head counts as the first byte.
    pub(super) fn new(inner: B, mut measurement: Measurement) -> Self {
        if inner.is_end_stream() {
            measurement.first_byte();
        }
        Self { inner, measurement }
    }
}

impl<B: Body> Body for AdaptiveBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if this.measurement.is_open() {
            match &frame {
                Some(Err(_)) => this.measurement.forget(),
                Some(Ok(_)) | None => this.measurement.first_byte(),
            }
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
