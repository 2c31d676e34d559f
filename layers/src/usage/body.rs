//! The body of a response, with its usage.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::object::CountMembers;
use super::tail::LastPieces;
use super::{Measured, Usage, UsageReport, expected_text_tokens};

pin_project! {
    /// A body that keeps the bytes with the counts and reads the usage from them at its end.
    #[derive(Debug, Default)]
    pub struct UsageBody<B> {
        #[pin]
        inner: B,
        watch: Option<Watch>,
    }
}

/// The separator of a response's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    /// One JSON object, no separator.
    None,
    LineFeed,
    EmptyLine,
}

/// Fills the report when it is dropped.
#[derive(Debug)]
struct Watch {
    /// For a response that is one object.
    members: CountMembers,
    /// For all other responses.
    last: LastPieces,
    separator: Separator,
    is_after_line_feed: bool,
    /// Lines or events; bytes of a response that is one object.
    items: u64,
    /// Whether a response that is one object has text of a model.
    has_text: bool,
    report: UsageReport,
}

impl<B> UsageBody<B> {
    pub(super) fn unobserved(inner: B) -> Self {
        Self { inner, watch: None }
    }

    pub(super) fn observed(
        inner: B,
        separator: Separator,
        has_text: bool,
        report: UsageReport,
    ) -> Self
    where
        B: Body,
    {
        let watch = Watch {
            members: CountMembers::default(),
            last: LastPieces::default(),
            separator,
            is_after_line_feed: separator == Separator::LineFeed,
            items: 0,
            has_text,
            report,
        };
        let watch = (!inner.is_end_stream()).then_some(watch);
        Self { inner, watch }
    }
}

impl Separator {
    /// `None` if the response has no token counts, or cannot be read.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?.as_bytes().trim_ascii_start();
        let is = |essence: &[u8]| {
            let rest = content_type.strip_prefix(essence);
            rest.is_some_and(|rest| matches!(rest.trim_ascii_start(), [] | [b';', ..]))
        };
        let separator = if is(b"application/x-ndjson") {
            Self::LineFeed
        } else if is(b"application/json") {
            Self::None
        } else if is(b"text/event-stream") {
            Self::EmptyLine
        } else {
            return None;
        };
        // Comparing a few names is cheaper than a lookup.
        let is_coded = headers.keys().any(|name| *name == CONTENT_ENCODING);
        (!is_coded).then_some(separator)
    }
}

impl Watch {
    fn push(&mut self, frame: &Bytes) {
        match self.separator {
            Separator::None => {
                self.members.push(frame);
                self.items += frame.len() as u64;
            }
            Separator::LineFeed => self.count_lines(frame),
            Separator::EmptyLine => {
                self.last.push(frame);
                self.count_empty_lines(frame);
            }
        }
    }

    /// The last line contains all counts; earlier lines are not needed.
    fn count_lines(&mut self, frame: &Bytes) {
        let Some(last) = frame.last() else { return };
        let ends_a_line = *last == b'\n';
        match self.is_after_line_feed && ends_a_line {
            true => self.last.replace(frame),
            false => self.last.push(frame),
        }
        self.is_after_line_feed = ends_a_line;
        // `fold`, not `count()`: counting looks at each byte, but only few bytes are line feeds.
        self.items += memchr::memchr_iter(b'\n', frame).fold(0, |lines, _| lines + 1);
    }

    fn count_empty_lines(&mut self, frame: &[u8]) {
        let Some((first, last)) = frame.first().zip(frame.last()) else {
            return;
        };
        let is_pair = |&at: &usize| frame.get(at + 1) == Some(&b'\n');
        let pairs = memchr::memchr_iter(b'\n', frame).filter(is_pair).count() as u64;
        self.items += pairs + u64::from(self.is_after_line_feed && *first == b'\n');
        self.is_after_line_feed = *last == b'\n';
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let usage = match self.separator {
            Separator::None => self.members.usage(),
            _ => self.last.with(Usage::find_last),
        };
        let items = match self.separator {
            Separator::None if usage.is_none() && self.has_text => expected_text_tokens(self.items),
            Separator::None => 0,
            Separator::LineFeed | Separator::EmptyLine => self.items,
        };
        self.report.fill(Measured { usage, items });
    }
}

impl<B: Body<Data = Bytes>> Body for UsageBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let Some(watch) = this.watch else {
            return Poll::Ready(frame);
        };
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref(),
            _ => None,
        };
        if let Some(data) = data {
            watch.push(data);
        }
        if data.is_none() || this.inner.is_end_stream() {
            *this.watch = None;
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
