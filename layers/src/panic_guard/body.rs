//! The body of a response.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::catch::{PanicHook, catch, ignore_panics};
use crate::{BoxError, Failure};

pin_project! {
    /// A body that turns a panic into an error.
    #[derive(Debug)]
    pub struct PanicGuardBody<B> {
        // `None` after a panic.
        #[pin]
        inner: Option<B>,
        hook: Option<PanicHook>,
    }
}

/// A body without frames.
impl<B> Default for PanicGuardBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            hook: None,
        }
    }
}

impl<B> PanicGuardBody<B> {
    pub(super) fn new(inner: B, hook: Option<PanicHook>) -> Self {
        let inner = Some(inner);
        Self { inner, hook }
    }
}

impl<B> Body for PanicGuardBody<B>
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
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        match catch(this.hook.as_ref(), || inner.poll_frame(cx)) {
            Ok(frame) => frame.map_err(Into::into),
            Err(panicked) => {
                ignore_panics(|| this.inner.set(None));
                Poll::Ready(Some(Err(Failure::from(panicked).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
