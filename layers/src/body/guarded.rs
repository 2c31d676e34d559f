//! A body with a guard that is dropped at the end of the body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A body that holds a guard (a permit, a gauge, a slot) until its end.
    ///
    /// The end is `None`, trailers, an error, or a frame after which `is_end_stream` is true: hyper
    /// does not poll such a body again. If the body is at its end when it is wrapped, the guard is
    /// dropped at once. If the body is dropped early, the guard is dropped with it.
    ///
    /// ```
    /// use http_body_util::Full;
    /// use llamatower_layers::body::Guarded;
    /// use std::sync::Arc;
    ///
    /// let permit = Arc::new(());
    /// let body = Guarded::new(Full::new(bytes::Bytes::from("text")), permit.clone());
    /// assert_eq!(Arc::strong_count(&permit), 2);
    /// drop(body);
    /// assert_eq!(Arc::strong_count(&permit), 1);
    /// ```
    #[derive(Debug)]
    pub struct Guarded<B, G> {
        #[pin]
        inner: B,
        guard: Option<G>,
    }
}

/// A default body without a guard.
impl<B: Default, G> Default for Guarded<B, G> {
    fn default() -> Self {
        Self {
            inner: B::default(),
            guard: None,
        }
    }
}

impl<B: Body, G> Guarded<B, G> {
    /// Keeps `guard` until the end of `inner`.
    pub fn new(inner: B, guard: G) -> Self {
        Self::maybe(inner, Some(guard))
    }

    /// Like [`new`](Self::new), with an optional guard.
    pub fn maybe(inner: B, guard: Option<G>) -> Self {
        let guard = guard.filter(|_| !inner.is_end_stream());
        Self { inner, guard }
    }
}

impl<B: Body, G> Body for Guarded<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let goes_on = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !goes_on || this.inner.is_end_stream() {
            *this.guard = None;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};

    use super::*;

    fn frames(texts: &'static [&'static str]) -> impl Body<Data = Bytes, Error = ()> + Unpin {
        let frames = texts.iter().map(|text| Ok(Frame::data(Bytes::from(*text))));
        StreamBody::new(futures_util::stream::iter(frames))
    }

    #[tokio::test]
    async fn the_guard_lives_until_none() {
        let permit = Arc::new(());
        let mut body = Guarded::new(frames(&["a", "b"]), permit.clone());
        assert!(body.frame().await.is_some());
        assert!(body.frame().await.is_some());
        assert_eq!(Arc::strong_count(&permit), 2);
        assert!(body.frame().await.is_none());
        assert_eq!(Arc::strong_count(&permit), 1);
    }

    #[tokio::test]
    async fn the_guard_is_dropped_with_a_last_frame() {
        let permit = Arc::new(());
        let mut body = Guarded::new(Full::new(Bytes::from("a")), permit.clone());
        assert!(body.frame().await.is_some());
        assert_eq!(Arc::strong_count(&permit), 1);
    }

    #[test]
    fn an_empty_body_is_at_its_end_at_once() {
        let permit = Arc::new(());
        let _body = Guarded::new(Empty::<Bytes>::new(), permit.clone());
        assert_eq!(Arc::strong_count(&permit), 1);
    }
}
