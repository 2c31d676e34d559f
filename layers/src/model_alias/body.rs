//! The body of a response.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::rewrite::{Items, Rewriter};
use crate::BoxError;

/// A response is read up to this many bytes to find the model, so that its new length is known.
const MAX_READ_AHEAD: usize = 64 << 10;

pin_project! {
    /// A body with the name of an alias in place of the model's, or one without a change.
    #[derive(Debug)]
    pub struct ModelAliasBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<B> {
        PassThrough {
            #[pin]
            inner: B,
        },
        // Boxed, because its size would burden every body that passes.
        Rewriting { rewriting: Box<Rewriting<B>> },
        Whole { bytes: Bytes },
    }
}

/// A body that is being rewritten.
#[derive(Debug)]
pub(super) struct Rewriting<B> {
    /// Boxed, because its first frames may be read before the body is moved to its place.
    inner: Pin<Box<B>>,
    rewriter: Rewriter,
    read_ahead: VecDeque<Result<Frame<Bytes>, BoxError>>,
    /// The inner body has ended, or failed.
    has_ended: bool,
}

impl<B> ModelAliasBody<B> {
    pub(super) fn pass_through(inner: B) -> Self {
        Self {
            kind: Kind::PassThrough { inner },
        }
    }

    pub(super) fn rewriting(rewriting: Rewriting<B>) -> Self {
        let rewriting = Box::new(rewriting);
        Self {
            kind: Kind::Rewriting { rewriting },
        }
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Whole { bytes },
        }
    }
}

/// A body without frames.
impl<B> Default for ModelAliasBody<B> {
    fn default() -> Self {
        Self::whole(Bytes::new())
    }
}

impl<B> Rewriting<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(inner: B, rewriter: Rewriter) -> Self {
        Self {
            inner: Box::pin(inner),
            rewriter,
            read_ahead: VecDeque::new(),
            has_ended: false,
        }
    }

    /// Corrects the declared length. For a single object the model is looked for at its beginning; if
    /// it is not there, or in lines, the length is not declared.
    pub(super) async fn fix_length(&mut self, headers: &mut HeaderMap, items: Items) {
        let Some(declared) = headers.remove(CONTENT_LENGTH) else {
            return;
        };
        let declared = declared.to_str().ok().and_then(|text| text.parse().ok());
        let Some(declared): Option<u64> = declared.filter(|_| items == Items::One) else {
            return;
        };
        let mut read = 0;
        while !self.rewriter.is_done() && !self.has_ended && read < MAX_READ_AHEAD {
            let Some(frame) = poll_fn(|cx| self.poll_inner(cx)).await else {
                break;
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            read += data.map_or(0, Bytes::len);
            self.read_ahead.push_back(frame);
        }
        if !self.rewriter.is_done() && !self.has_ended {
            return;
        }
        let (old, new) = self.rewriter.lengths().unwrap_or_default();
        let length = declared.saturating_sub(old) + new;
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }

    /// The next rewritten frame of the inner body.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if self.has_ended {
                return Poll::Ready(None);
            }
            let frame = ready!(self.inner.as_mut().poll_frame(cx));
            self.has_ended = !matches!(frame, Some(Ok(_))) || self.inner.is_end_stream();
            let frame = match frame {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            };
            let frame = match frame.into_data() {
                Ok(data) => Frame::data(self.rewriter.rewrite(data)),
                Err(trailers) => trailers,
            };
            // All of a frame may be a part of the name.
            if frame.data_ref().is_none_or(|data| !data.is_empty()) {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        if !self.rewriter.is_done() {
            return SizeHint::default();
        }
        let frames = self.read_ahead.iter().flatten();
        let frames = frames.filter_map(|frame| frame.data_ref());
        let read: u64 = frames.map(|data| data.len() as u64).sum();
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + read);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + read);
        }
        hint
    }
}

impl<B> Body for ModelAliasBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProjection::PassThrough { inner } => inner.poll_frame(cx).map_err(Into::into),
            KindProjection::Rewriting { rewriting } => match rewriting.read_ahead.pop_front() {
                Some(frame) => Poll::Ready(Some(frame)),
                None => rewriting.poll_inner(cx),
            },
            KindProjection::Whole { bytes } => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::PassThrough { inner } => inner.is_end_stream(),
            Kind::Rewriting { rewriting } => {
                let is_over = rewriting.has_ended || rewriting.inner.is_end_stream();
                rewriting.read_ahead.is_empty() && is_over
            }
            Kind::Whole { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::PassThrough { inner } => inner.size_hint(),
            Kind::Rewriting { rewriting } => rewriting.size_hint(),
            Kind::Whole { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
