//! One connection and the message on it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, StatusCode, response};
use http_body::Body;
use llamatower_layers::BoxError;
use llamatower_layers::frames;
use tokio::net::TcpStream;

use super::head::{Head, HeadReader, keeps_alive};
use super::send::{SendError, Sending};
use crate::http1::decode::{Data, Decoder, Malformed};
use crate::http1::read::poll_read;

/// Whether a connection is open and has nothing to say.
pub(super) fn is_idle(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Told of a `100 Continue`, by an extension of the request.
#[derive(Clone)]
pub(super) struct OnContinue(pub(super) Arc<dyn Fn() + Send + Sync>);

/// A request that got no answer.
pub(super) enum Unanswered {
    /// The connection failed.
    Lost(io::Error),
    /// What came is no answer.
    Invalid(Malformed),
    /// The request's own body failed.
    Body(BoxError),
}

/// The head of the final answer, if it is complete.
fn take_head(
    mut bytes: &[u8],
    reader: &mut HeadReader,
    method: &Method,
    on_continue: Option<&OnContinue>,
) -> Result<Option<Answered>, Unanswered> {
    if bytes.is_empty() {
        return Err(match reader.is_empty() {
            true => Unanswered::Lost(io::ErrorKind::UnexpectedEof.into()),
            false => Unanswered::Invalid(Malformed("its head breaks off")),
        });
    }
    while !bytes.is_empty() {
        let head = reader.read(bytes).map_err(Unanswered::Invalid)?;
        let Some(Head { parts, consumed }) = head else {
            return Ok(None);
        };
        bytes = &bytes[consumed..];
        if !parts.status.is_informational() {
            let received = Received::with_head(method, &parts, bytes);
            let received = received.map_err(Unanswered::Invalid)?;
            return Ok(Some((parts, received)));
        }
        match (parts.status, on_continue) {
            (StatusCode::SWITCHING_PROTOCOLS, _) => {
                let reason = Malformed("it switched protocols without being asked");
                return Err(Unanswered::Invalid(reason));
            }
            (StatusCode::CONTINUE, Some(OnContinue(tell))) => tell(),
            _ => {}
        }
    }
    Ok(None)
}

/// A request and its answer on a connection.
pub(super) struct Flow<B> {
    /// `None` before there is one, once it was given back, and once it failed.
    stream: Option<TcpStream>,
    /// What is left of the request.
    sending: Option<Sending<B>>,
    /// Why the server takes no more of the request, before it has answered.
    not_sent: Option<io::Error>,
    reader: HeadReader,
    received: Received,
    has_begun: bool,
    is_reusable: bool,
}

/// What has come of an answer's body.
struct Received {
    decoder: Decoder,
    /// Lines tell by themselves where they end: those that came together are one piece. Other
    /// chunks stay what they were, since there are clients that take a chunk for an event.
    is_lines: bool,
    /// What was not taken yet: the next piece, and those that came with it.
    ready: Bytes,
    later: VecDeque<Bytes>,
    /// Something came after the answer that was not asked for.
    is_overfull: bool,
}

/// The head of an answer, and what came of its body in the same read.
type Answered = (response::Parts, Received);

impl Received {
    /// Nothing.
    fn nothing() -> Self {
        Self {
            decoder: Decoder::Length(0),
            is_lines: false,
            ready: Bytes::new(),
            later: VecDeque::new(),
            is_overfull: false,
        }
    }

    fn with_head(method: &Method, head: &response::Parts, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut received = Self {
            decoder: Decoder::of_answer(method, head.status, &head.headers)?,
            is_lines: frames::Framing::of(&head.headers) == Some(frames::Framing::Ndjson),
            ..Self::nothing()
        };
        received.take(bytes)?;
        Ok(received)
    }

    /// Takes what was read, in as few allocations as there are pieces, each of just its size.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut data = Data::new();
        let decoded = self.decoder.decode(bytes, &mut data)?;
        self.is_overfull |= decoded.consumed < bytes.len();
        if self.is_lines && data.len() > 1 {
            self.ready = Bytes::from(data.concat());
            return Ok(());
        }
        let mut pieces = data.into_iter().map(Bytes::copy_from_slice);
        self.ready = pieces.next().unwrap_or_default();
        self.later.extend(pieces);
        Ok(())
    }

    fn next_piece(&mut self) -> Bytes {
        let next = self.later.pop_front().unwrap_or_default();
        std::mem::replace(&mut self.ready, next)
    }
}

/// What comes next of an answer.
pub(super) enum Next {
    Data(Bytes),
    End,
}

/// Why an answer broke off.
pub(super) enum Broken {
    /// On the server's side.
    Answer(io::Error),
    /// The request's own body failed while the answer came.
    Body(BoxError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Answer(error)
    }
}

impl<B> Flow<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// One that has no connection yet.
    pub(super) fn new(sending: Sending<B>) -> Self {
        Self {
            stream: None,
            sending: Some(sending),
            not_sent: None,
            reader: HeadReader::default(),
            received: Received::nothing(),
            has_begun: false,
            is_reusable: false,
        }
    }

    /// Goes over this connection from now on.
    pub(super) fn begin_on(&mut self, stream: TcpStream) {
        self.stream = Some(stream);
        self.not_sent = None;
        self.reader = HeadReader::default();
    }

    /// Whether no byte of the request can have reached the server.
    pub(super) fn is_unsent(&self) -> bool {
        let sending = self.sending.as_ref();
        sending.is_some_and(|sending| !sending.has_begun())
    }

    /// Sends the request, and waits for the head of its answer. The rest of the request's body goes
    /// out while the answer's is read.
    pub(super) fn poll_head(
        &mut self,
        method: &Method,
        on_continue: Option<&OnContinue>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Unanswered>> {
        let Some(stream) = &mut self.stream else {
            let closed = io::ErrorKind::NotConnected.into();
            return Poll::Ready(Err(Unanswered::Lost(closed)));
        };
        if let Some(request) = self.sending.as_mut().filter(|_| self.not_sent.is_none()) {
            // A server may answer before it has read all, and close. Writing then fails, perhaps before
            // the answer is seen, which is waited for: a connection that broke is readable to its end.
            match request.poll(stream, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.sending = None,
                Poll::Ready(Err(SendError::Connection(error))) => self.not_sent = Some(error),
                Poll::Ready(Err(SendError::Body(error))) => {
                    return Poll::Ready(Err(Unanswered::Body(error)));
                }
            }
        }
        loop {
            let reader = &mut self.reader;
            let read = poll_read(stream, cx, |bytes| {
                take_head(bytes, reader, method, on_continue)
            });
            let lost = match ready!(read) {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some((head, received)))) => {
                    self.received = received;
                    self.is_reusable = keeps_alive(&head) && self.not_sent.is_none();
                    return Poll::Ready(Ok(head));
                }
                Ok(Err(Unanswered::Lost(error))) | Err(error) => error,
                Ok(Err(error)) => return Poll::Ready(Err(error)),
            };
            self.stream = None;
            let error = self.not_sent.take().unwrap_or(lost);
            return Poll::Ready(Err(Unanswered::Lost(error)));
        }
    }

    /// Whether all of the answer has come, and what came was taken. What is framed by chunks is
    /// not at its end before it was begun: it is handed on as a stream, though it has come whole.
    pub(super) fn is_at_end(&self) -> bool {
        let is_known_before = matches!(self.received.decoder, Decoder::Length(_));
        self.received.ready.is_empty()
            && self.received.decoder.is_finished()
            && !self.received.decoder.has_trailers()
            && (is_known_before || self.has_begun)
    }

    /// How much is still to be taken, if the answer's head has said how long it is.
    pub(super) fn left(&self) -> Option<u64> {
        let Decoder::Length(left) = &self.received.decoder else {
            return None;
        };
        Some(left + self.received.ready.len() as u64)
    }

    /// The connection, if it can serve another request: all has come, and all was sent.
    pub(super) fn take_idle(&mut self) -> Option<TcpStream> {
        let is_done = self.received.decoder.is_finished() && self.sending.is_none();
        match is_done && self.is_reusable && !self.received.is_overfull {
            true => self.stream.take(),
            false => None,
        }
    }

    pub(super) fn take_trailers(&mut self) -> Option<http::HeaderMap> {
        self.received.decoder.take_trailers()
    }

    /// The next piece of data.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        self.has_begun = true;
        loop {
            if !self.received.ready.is_empty() {
                return Poll::Ready(Ok(Next::Data(self.received.next_piece())));
            }
            if self.received.decoder.is_finished() {
                return Poll::Ready(Ok(Next::End));
            }
            let Some(mut stream) = self.stream.take() else {
                return Poll::Ready(Ok(Next::End));
            };
            self.poll_sending(&mut stream, cx).map_err(Broken::Body)?;
            let read = poll_read(&mut stream, cx, |bytes| {
                (!bytes.is_empty()).then(|| self.received.take(bytes))
            });
            self.stream = Some(stream);
            match ready!(read)? {
                Some(Ok(())) => {}
                Some(Err(malformed)) => {
                    return Poll::Ready(Err(io::Error::from(malformed).into()));
                }
                None => return Poll::Ready(self.closed()),
            }
        }
    }

    /// A server that has answered may stop reading; the connection is not used again then.
    fn poll_sending(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Result<(), BoxError> {
        let Some(request) = &mut self.sending else {
            return Ok(());
        };
        match request.poll(stream, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(SendError::Connection(_))) => self.is_reusable = false,
            Poll::Ready(Err(SendError::Body(error))) => return Err(error),
        }
        self.sending = None;
        Ok(())
    }

    fn closed(&mut self) -> Result<Next, Broken> {
        self.stream = None;
        match self.received.decoder {
            Decoder::UntilClose => Ok(Next::End),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// Calls `tell` when the server asks for the body (`100 Continue`, RFC 9110 10.1.1).
pub fn call_on_continue<B>(request: &mut Request<B>, tell: impl Fn() + Send + Sync + 'static) {
    request.extensions_mut().insert(OnContinue(Arc::new(tell)));
}
