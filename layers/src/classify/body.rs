//! The response body.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::layer::Policy;
use crate::BoxError;

pin_project! {
    /// A body whose errors are classified.
    #[derive(Debug)]
    pub struct ClassifyBody<B> {
        #[pin]
        inner: B,
        policy: Policy,
    }
}

impl<B> ClassifyBody<B> {
    pub(super) fn new(inner: B, policy: Policy) -> Self {
        Self { inner, policy }
    }
}

impl<B> Body for ClassifyBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        let frame = this.inner.poll_frame(cx);
        frame.map_err(|error| this.policy.apply(error))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
