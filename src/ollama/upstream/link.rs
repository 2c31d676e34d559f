//! One connection and the message on it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, StatusCode, response};
use http_body::Body;
use llamatower_layers::BoxError;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::decode::{Data, Decoder, Malformed};
use super::head::{Head, HeadReader, keeps_alive};
use super::send::{SendError, Sending};

/// What one call to the kernel reads at most.
const READ_BYTES: usize = 64 * 1024;

/// Above it a second copy costs more than a second allocation.
const LITTLE: usize = 8 * 1024;

thread_local! {
    /// All connections of a thread read into the same memory, of which each keeps a copy of what
    /// is its own. A stream that waits holds no buffer, and the memory is warm.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    static LITTLE_DATA: RefCell<Data> = RefCell::new(Data::with_capacity(LITTLE));
}

/// Reads once, and hands what has come to `take`; nothing at the end of the stream.
fn poll_read<T>(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled())))
    })
}

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

/// Sends a request, and waits for the head of its answer. The rest of the request's body goes out
/// while the answer's is read.
pub(super) async fn exchange<B>(
    stream: TcpStream,
    sending: &mut Option<Sending<B>>,
    method: &Method,
    on_continue: Option<&OnContinue>,
) -> Result<(response::Parts, Flow<B>), Unanswered>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut exchange = Exchange {
        stream,
        sending,
        not_sent: None,
        reader: HeadReader::default(),
        first: Vec::new(),
        on_continue,
    };
    let parts = poll_fn(|cx| exchange.poll(cx)).await?;
    let decoder = Decoder::of_answer(method, parts.status, &parts.headers);
    let decoder = decoder.map_err(Unanswered::Invalid)?;
    let mut flow = Flow {
        is_reusable: keeps_alive(&parts) && exchange.not_sent.is_none(),
        stream: Some(exchange.stream),
        sending: exchange.sending.take(),
        decoder,
        ready: None,
        later: VecDeque::new(),
        has_begun: false,
    };
    flow.take(&exchange.first).map_err(Unanswered::Invalid)?;
    Ok((parts, flow))
}

/// A request until the head of its answer has come.
struct Exchange<'a, B> {
    stream: TcpStream,
    sending: &'a mut Option<Sending<B>>,
    /// Why the server takes no more of the request.
    not_sent: Option<io::Error>,
    reader: HeadReader,
    /// What has come of the answer's body with its head.
    first: Vec<u8>,
    on_continue: Option<&'a OnContinue>,
}

impl<B> Exchange<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Unanswered>> {
        self.poll_sending(cx)?;
        loop {
            let read = poll_read(&mut self.stream, cx, |bytes| {
                take_head(bytes, &mut self.reader, &mut self.first, self.on_continue)
            });
            let lost = match ready!(read) {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(parts))) => return Poll::Ready(Ok(parts)),
                Ok(Err(Unanswered::Lost(error))) | Err(error) => error,
                Ok(Err(error)) => return Poll::Ready(Err(error)),
            };
            let error = self.not_sent.take().unwrap_or(lost);
            return Poll::Ready(Err(Unanswered::Lost(error)));
        }
    }

    /// A server may answer before it has read all, and close. Writing then fails, perhaps before
    /// the answer is seen, which is waited for: a connection that broke is readable to its end.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> Result<(), Unanswered> {
        let Some(request) = self.sending.as_mut().filter(|_| self.not_sent.is_none()) else {
            return Ok(());
        };
        match request.poll(&mut self.stream, cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => *self.sending = None,
            Poll::Ready(Err(SendError::Connection(error))) => self.not_sent = Some(error),
            Poll::Ready(Err(SendError::Body(error))) => return Err(Unanswered::Body(error)),
        }
        Ok(())
    }
}

/// The head of the final answer, if it is complete.
fn take_head(
    mut bytes: &[u8],
    reader: &mut HeadReader,
    first: &mut Vec<u8>,
    on_continue: Option<&OnContinue>,
) -> Result<Option<response::Parts>, Unanswered> {
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
            first.extend_from_slice(bytes);
            return Ok(Some(parts));
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

/// An answer on its connection, after the head.
pub(super) struct Flow<B> {
    /// `None` once it was given back, or failed.
    stream: Option<TcpStream>,
    /// What is left of the request.
    sending: Option<Sending<B>>,
    decoder: Decoder,
    /// What has come and was not taken yet: the next piece, and those that came with it.
    ready: Option<Bytes>,
    later: VecDeque<Bytes>,
    has_begun: bool,
    is_reusable: bool,
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
    /// Whether all of the answer has come, and what came was taken. What is framed by chunks is
    /// not at its end before it was begun: it is handed on in chunks, though it has come whole.
    pub(super) fn is_at_end(&self) -> bool {
        let is_known_before = matches!(self.decoder, Decoder::Length(_));
        self.ready.is_none()
            && self.decoder.is_finished()
            && !self.decoder.has_trailers()
            && (is_known_before || self.has_begun)
    }

    /// How much is still to be taken, if the answer's head has said how long it is.
    pub(super) fn left(&self) -> Option<u64> {
        let Decoder::Length(left) = &self.decoder else {
            return None;
        };
        let ready = self.ready.iter().chain(&self.later).map(Bytes::len);
        Some(left + ready.sum::<usize>() as u64)
    }

    /// The connection, if it can serve another request: all has come, and all was sent.
    pub(super) fn take_idle(&mut self) -> Option<TcpStream> {
        let is_done = self.decoder.is_finished() && self.sending.is_none();
        match is_done && self.is_reusable {
            true => self.stream.take(),
            false => None,
        }
    }

    pub(super) fn take_trailers(&mut self) -> Option<http::HeaderMap> {
        self.decoder.take_trailers()
    }

    /// Takes what came with the head, or what was read, and queues its pieces. Little of it is
    /// decoded beside its place and copied there: it then takes one allocation of just its size.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if bytes.len() > LITTLE {
            let mut data = Data::with_capacity(bytes.len());
            self.decode(bytes, &mut data)?;
            self.queue(Bytes::from(data.bytes), &data.ends);
            return Ok(());
        }
        LITTLE_DATA.with_borrow_mut(|data| {
            data.clear();
            self.decode(bytes, data)?;
            self.queue(Bytes::copy_from_slice(&data.bytes), &data.ends);
            Ok(())
        })
    }

    fn decode(&mut self, bytes: &[u8], data: &mut Data) -> Result<(), Malformed> {
        let decoded = self.decoder.decode(bytes, data)?;
        // What comes after an answer was not asked for.
        self.is_reusable &= decoded.consumed == bytes.len();
        Ok(())
    }

    fn queue(&mut self, mut data: Bytes, ends: &[usize]) {
        let mut begin = 0;
        for end in ends {
            let piece = data.split_to(end - begin);
            begin = *end;
            match &self.ready {
                None => self.ready = Some(piece),
                Some(_) => self.later.push_back(piece),
            }
        }
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        let piece = self.ready.take()?;
        self.ready = self.later.pop_front();
        if self.ready.is_none() {
            self.later = VecDeque::new();
        }
        Some(piece)
    }

    /// The next piece of data.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        self.has_begun = true;
        loop {
            if let Some(data) = self.next_piece() {
                return Poll::Ready(Ok(Next::Data(data)));
            }
            if self.decoder.is_finished() {
                return Poll::Ready(Ok(Next::End));
            }
            let Some(mut stream) = self.stream.take() else {
                return Poll::Ready(Ok(Next::End));
            };
            self.poll_sending(&mut stream, cx).map_err(Broken::Body)?;
            let read = poll_read(&mut stream, cx, |bytes| {
                (!bytes.is_empty()).then(|| self.take(bytes))
            });
            self.stream = Some(stream);
            match ready!(read)? {
                Some(Ok(())) => {}
                Some(Err(Malformed(reason))) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, reason);
                    return Poll::Ready(Err(error.into()));
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
        match self.decoder {
            Decoder::UntilClose => Ok(Next::End),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

/// Calls `tell` when the server asks for the body (`100 Continue`, RFC 9110 10.1.1).
pub fn call_on_continue<B>(request: &mut Request<B>, tell: impl Fn() + Send + Sync + 'static) {
    request.extensions_mut().insert(OnContinue(Arc::new(tell)));
}
