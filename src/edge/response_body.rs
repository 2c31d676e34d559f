//! The body of the stack's response: one poll for each turn, one chunk for each line.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::BoxError;
use llamatower_layers::body::Guarded;
use llamatower_layers::frames::Framing;
use memchr::memchr;
use pin_project_lite::pin_project;

use super::state::{ConnectionState, InFlight};

const WRONG_LENGTH: &str = "the length of the response body differs from its Content-Length";

pin_project! {
    /// Polls the stack's body once per turn, and cuts it into lines.
    ///
    /// - **One poll per turn.** hyper polls a body again after it was pending, in case a write in
    ///   between made a difference. A piece that became ready since then wakes the connection's
    ///   task, which then has another turn. Until then the result is known, and the layers below
    ///   are not polled.
    /// - **One chunk per line.** Ollama writes each line of a stream as its own chunk, and some
    ///   clients take a chunk for a line. Lines that arrived together pass through the stack in one
    ///   piece and are cut only here.
    pub(super) struct ResponseBody<B> {
        #[pin]
        inner: Guarded<B, InFlight>,
        state: Arc<ConnectionState>,
        pending_in: Option<u32>,
        // Bytes still to come, if the head has a length.
        remaining: Option<u64>,
        // Newline-delimited JSON in chunks; other bodies pass uncut.
        is_lines: bool,
        lines: Bytes,
    }
}

impl<B: Body> ResponseBody<B> {
    /// Wraps the body of a response with these headers.
    pub(super) fn new(inner: B, headers: &mut HeaderMap, in_flight: InFlight) -> Self {
        let remaining = settle_length(headers);
        Self {
            state: in_flight.state().clone(),
            inner: Guarded::new(inner, in_flight),
            pending_in: None,
            is_lines: remaining.is_none() && Framing::of(headers) == Some(Framing::Ndjson),
            remaining,
            lines: Bytes::new(),
        }
    }
}

impl<B> ResponseBody<B> {
    /// Passes lines that arrived together in one piece: in HTTP/2 no client sees pieces, and some refuse
    /// many small frames.
    pub(super) fn uncut(mut self) -> Self {
        self.is_lines = false;
        self
    }
}

/// The length of the body by its head. Afterwards the head has one `Content-Length`, or none if its
/// values were invalid (RFC 9112 6.3).
fn settle_length(headers: &mut HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next()?;
    let (mut is_repeated, mut is_one) = (false, true);
    for other in lengths {
        is_repeated = true;
        is_one &= other == first;
    }
    let digits = first.as_bytes();
    let is_number = is_one && digits.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(digits).ok().filter(|_| is_number);
    let length = length.and_then(|digits| digits.parse().ok());
    let repeated = is_repeated.then(|| first.clone());
    match (length, repeated) {
        (Some(_), None) => {}
        (Some(_), Some(first)) => drop(headers.insert(CONTENT_LENGTH, first)),
        (None, _) => drop(headers.remove(CONTENT_LENGTH)),
    }
    length
}

/// Cuts off the first line.
fn cut_line(lines: &mut Bytes) -> Bytes {
    match memchr(b'\n', lines).map(|at| at + 1) {
        Some(end) if end < lines.len() => lines.split_to(end),
        _ => std::mem::take(lines),
    }
}

impl<B: Body<Data = Bytes>> ResponseBody<B>
where
    B::Error: Into<BoxError>,
{
    /// The next data of the stack's response. Trailers are dropped, because none were announced.
    fn poll_piece(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BoxError>>> {
        let mut this = self.project();
        let turn = Some(this.state.turn());
        if *this.pending_in == turn {
            return Poll::Pending;
        }
        loop {
            let frame = this.inner.as_mut().poll_frame(cx);
            if frame.is_pending() {
                *this.pending_in = turn;
            }
            let Some(frame) = ready!(frame) else {
                let is_short = this.remaining.take().is_some_and(|remaining| remaining > 0);
                return Poll::Ready(is_short.then(|| Err(WRONG_LENGTH.into())));
            };
            let Ok(data) = frame.map_err(Into::into)?.into_data() else {
                continue;
            };
            if let Some(remaining) = this.remaining {
                *remaining = remaining
                    .checked_sub(data.len() as u64)
                    .ok_or(WRONG_LENGTH)?;
            }
            return Poll::Ready(Some(Ok(data)));
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.lines.is_empty() {
            match ready!(self.as_mut().poll_piece(cx)) {
                Some(Ok(data)) if self.is_lines => *self.as_mut().project().lines = data,
                piece => return Poll::Ready(piece.map(|piece| piece.map(Frame::data))),
            }
        }
        let line = cut_line(self.project().lines);
        Poll::Ready(Some(Ok(Frame::data(line))))
    }

    fn is_end_stream(&self) -> bool {
        self.lines.is_empty()
            && self.remaining.is_none_or(|remaining| remaining == 0)
            && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining {
            // hyper requires this to equal the `Content-Length`.
            Some(remaining) => SizeHint::with_exact(remaining),
            None if self.lines.is_empty() => self.inner.size_hint(),
            None => SizeHint::default(),
        }
    }
}
