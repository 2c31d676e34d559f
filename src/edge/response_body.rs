//! The body of an answer of the stack, on its way to hyper.

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

const WRONG_LENGTH: &str = "the body of the answer is not as long as its head says";

pin_project! {
    /// A body that is asked once a turn, is cut into lines, and holds its error back.
    ///
    /// - hyper polls a body again after it was pending, lest a write that came between had made a
    ///   difference. What has become ready since wakes the connection, whose task then has another
    ///   turn: until then the answer is known, and the layers below need not be asked for it.
    /// - Ollama writes each line of a stream as a chunk of its own, and some clients take a chunk for a
    ///   line. What has come together passes through the stack in one piece, and is cut only here.
    /// - hyper flushes nothing after an error of a body, not even the head. So the error waits until the
    ///   socket says that all before it has left.
    pub(super) struct ResponseBody<B> {
        #[pin]
        inner: Guarded<B, InFlight>,
        state: Arc<ConnectionState>,
        pending_in: Option<u32>,
        // What is still to come, if the head says how long the body is.
        left: Option<u64>,
        // Newline-delimited JSON that is sent in chunks; all else goes on as it comes.
        is_lines: bool,
        lines: Bytes,
        error: Option<BoxError>,
    }
}

impl<B: Body> ResponseBody<B> {
    /// The body of an answer with these headers.
    pub(super) fn new(inner: B, headers: &mut HeaderMap, in_flight: InFlight) -> Self {
        let left = settle_length(headers);
        Self {
            state: in_flight.state().clone(),
            inner: Guarded::new(inner, in_flight),
            pending_in: None,
            is_lines: left.is_none() && Framing::of(headers) == Some(Framing::Ndjson),
            left,
            lines: Bytes::new(),
            error: None,
        }
    }
}

/// How long a head says that its body is. It says it once from then on, or not at all if no
/// client could rely on it (RFC 9112 6.3).
fn settle_length(headers: &mut HeaderMap) -> Option<u64> {
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let first = said.next()?.clone();
    let is_one = said.all(|other| other == first);
    let digits = first.as_bytes();
    let is_number = is_one && digits.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(digits).ok().filter(|_| is_number);
    let length = length.and_then(|digits| digits.parse().ok());
    match length {
        Some(_) => drop(headers.insert(CONTENT_LENGTH, first)),
        None => drop(headers.remove(CONTENT_LENGTH)),
    }
    length
}

/// The first line of what came together.
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
    /// The next piece of the stack's answer; trailers go to no client, as none was promised them.
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
                let is_short = this.left.take().is_some_and(|left| left > 0);
                return Poll::Ready(is_short.then(|| Err(WRONG_LENGTH.into())));
            };
            let Ok(data) = frame.map_err(Into::into)?.into_data() else {
                continue;
            };
            if let Some(left) = this.left {
                *left = left.checked_sub(data.len() as u64).ok_or(WRONG_LENGTH)?;
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
        if self.error.is_none() && self.lines.is_empty() {
            match ready!(self.as_mut().poll_piece(cx)) {
                Some(Ok(data)) if self.is_lines => *self.as_mut().project().lines = data,
                Some(Ok(data)) => {
                    self.state.set_flushed(false);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    *self.as_mut().project().error = Some(error);
                    // hyper flushes, and asks again in the next turn.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => {
                    // hyper writes the end: the last chunk, if there are chunks.
                    self.state.set_flushed(false);
                    return Poll::Ready(None);
                }
            }
        }
        let this = self.project();
        if this.error.is_some() {
            return match this.state.is_flushed() {
                true => Poll::Ready(this.error.take().map(Err)),
                false => Poll::Pending,
            };
        }
        this.state.set_flushed(false);
        Poll::Ready(Some(Ok(Frame::data(cut_line(this.lines)))))
    }

    fn is_end_stream(&self) -> bool {
        self.error.is_none()
            && self.lines.is_empty()
            && self.left.is_none_or(|left| left == 0)
            && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            // hyper trusts it to be what the head says.
            Some(left) => SizeHint::with_exact(left),
            None if self.lines.is_empty() => self.inner.size_hint(),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::task::noop_waker_ref;
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    /// Pending the first time, and how often it was asked.
    struct Late(usize);

    impl Body for Late {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            match self.0 {
                1 => Poll::Pending,
                _ => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"line"))))),
            }
        }
    }

    #[test]
    fn a_pending_body_is_asked_again_in_the_next_turn() {
        let state = ConnectionState::new(Arc::default());
        let mut body = ResponseBody::new(Late(0), &mut HeaderMap::new(), state.begin(true));
        let mut cx = Context::from_waker(noop_waker_ref());
        state.begin_turn(cx.waker());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        state.begin_turn(cx.waker());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
    }

    fn frames(fields: &[(http::HeaderName, &'static str)], data: &'static str) -> Vec<Bytes> {
        let fields = fields.iter().cloned();
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let state = ConnectionState::new(Arc::default());
        let body = http_body_util::Full::new(Bytes::from_static(data.as_bytes()));
        let mut body = ResponseBody::new(body, &mut fields.collect(), state.begin(true));
        let mut cx = Context::from_waker(noop_waker_ref());
        std::iter::from_fn(|| match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(frame) => frame?.ok()?.into_data().ok(),
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn lines_that_came_together_are_a_frame_each() {
        let lines = [(CONTENT_TYPE, "application/x-ndjson")];
        let expected = ["{}\n", "{\"a\":1}\n", "{\"b"];
        assert_eq!(frames(&lines, "{}\n{\"a\":1}\n{\"b"), expected);
    }

    #[test]
    fn all_else_goes_on_as_it_came() {
        let json = [(CONTENT_TYPE, "application/json")];
        assert_eq!(frames(&json, "{\n}\n"), ["{\n}\n"]);
        let events = [(CONTENT_TYPE, "text/event-stream")];
        let together = "data: {}\n\ndata: [DONE]\n\n";
        assert_eq!(frames(&events, together), [together]);
        let whole = [
            (CONTENT_TYPE, "application/x-ndjson"),
            (CONTENT_LENGTH, "6"),
        ];
        assert_eq!(frames(&whole, "{}\n{}\n"), ["{}\n{}\n"]);
    }

    #[test]
    fn a_length_on_which_no_client_could_rely_is_not_said() {
        let settled = |values: &[&'static str]| {
            let fields = values
                .iter()
                .map(|value| (CONTENT_LENGTH, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, value);
            }
            let length = settle_length(&mut headers);
            (length, headers.get_all(CONTENT_LENGTH).iter().count())
        };
        assert_eq!(settled(&[]), (None, 0));
        assert_eq!(settled(&["4"]), (Some(4), 1));
        assert_eq!(settled(&["4", "4"]), (Some(4), 1));
        for wrong in [
            &["four"][..],
            &["+4"],
            &[""],
            &["4", "5"],
            &["99999999999999999999"],
        ] {
            assert_eq!(settled(wrong), (None, 0), "{wrong:?}");
        }
    }
}
