//! One connection: its requests one after the other, the clocks round them and a decent end.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version, response};
use http_body::Body;
use http_body_util::Full;
use llamatower_layers::BoxError;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tower::Service;

use super::RequestBody;
use super::clock::Clock;
use super::exchange::{Exchange, Terms, Way};
use super::intake::{DISCARD_BYTES, DISCARD_TIME, Intake};
use super::listener::Stream;
use super::reply::{Asked, frame, settle_connection, write_head};
use super::request_head::{Arrival, Refused};
use super::wire::Wire;
use crate::http1::encode::Encoder;
use crate::http1::fields::keep_map;

/// While so many bytes wait, no more of an answer is asked for.
const ENOUGH: usize = 64 * 1024;

/// How long each phase of a connection may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) keep_alive: Duration,
    pub(super) total: Option<Duration>,
    pub(super) write_stall: Option<Duration>,
}

/// Serves a connection to its end. `close` asks it to end after the request under way.
pub(super) async fn serve<S, B>(
    stream: Stream,
    stack: S,
    terms: Terms,
    limits: Limits,
    close: oneshot::Receiver<()>,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut step = pin!(Step::Head);
    let mut connection = Connection {
        stack,
        step: step.as_mut(),
        terms,
        limits,
        close: Some(close),
        wire: Wire::new(stream, limits.write_stall),
        exchange: None,
        is_last: false,
        clock: Clock::default(),
        timed: Phase::Head,
        broken: None,
    };
    connection.enter(Phase::Head);
    let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
    match &end {
        End::Closed => tracing::trace!("connection closed"),
        End::Failed(error) => tracing::debug!(%error, "connection failed"),
        End::Broken(error) => tracing::debug!(%error, "an answer broke off"),
        End::Clock(phase) => tracing::debug!(?phase, "connection timed out"),
    }
    let Connection { wire, exchange, .. } = connection;
    // The request under way ends here, and not when the client has been waited for.
    step.set(Step::Rest);
    drop(exchange);
    if wire.is_to_linger() {
        linger(wire.io).await;
    }
}

/// How a connection ended.
enum End {
    Closed,
    /// The client has gone, or reads no more.
    Failed(io::Error),
    /// The body of an answer failed.
    Broken(BoxError),
    Clock(Phase),
}

/// What a clock is running for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A head is expected or arriving.
    Head,
    /// A request has its answer and no byte of the next has come.
    Idle,
    /// A request is under way.
    Exchange,
    /// The end of an answer waits to be written; that has its own clock.
    Rest,
}

pin_project! {
    /// Where a connection is.
    #[project = StepProjection]
    enum Step<F, B> {
        /// A head is waited for.
        Head,
        /// The stack is not ready for the request.
        Unready { request: Option<Request<RequestBody>> },
        /// The answer is waited for.
        Asked { #[pin] answer: F },
        /// It is on its way.
        Answer { #[pin] body: B, encoder: Encoder },
        /// All of it was handed over; the rest of both messages is waited for.
        Rest,
    }
}

struct Connection<'a, S: Service<Request<RequestBody>>, B> {
    stack: S,
    step: Pin<&'a mut Step<S::Future, B>>,
    terms: Terms,
    limits: Limits,
    close: Option<oneshot::Receiver<()>>,
    wire: Wire,
    exchange: Option<Exchange>,
    /// No request follows this one.
    is_last: bool,
    clock: Clock,
    timed: Phase,
    /// Why the answer ends before its end.
    broken: Option<BoxError>,
}

impl<S, B> Connection<'_, S, B>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(close) = &mut self.close
            && Pin::new(close).poll(cx).is_ready()
        {
            self.close = None;
            self.is_last = true;
        }
        loop {
            // What has come together is put together before any of it is written.
            while let Poll::Ready(end) = self.poll_step(cx) {
                if let Some(end) = end {
                    return Poll::Ready(end);
                }
            }
            let has_room = match self.poll_write(cx) {
                Ok(has_room) => has_room,
                Err(error) => return Poll::Ready(End::Failed(error)),
            };
            match self.poll_intake(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                Poll::Pending if has_room => {}
                Poll::Pending => break,
            }
        }
        self.clock.poll(cx).map(|()| End::Clock(self.timed))
    }

    /// Writes what waits; true if a step can go on that waited for that.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let has_waited = self.waits_for_outbox();
        if let Poll::Ready(written) = self.wire.poll_write(cx) {
            written?;
        }
        Ok(has_waited && !self.waits_for_outbox())
    }

    fn waits_for_outbox(&self) -> bool {
        match *self.step {
            Step::Answer { .. } => self.wire.outbox.is_full(ENOUGH),
            Step::Rest => !self.wire.outbox.is_empty(),
            _ => false,
        }
    }

    /// Between requests nothing is read but heads, and behind an answer only what is to be
    /// discarded: a client that closes its side then may still read.
    fn poll_intake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (&*self.step, &self.wire.intake) {
            (Step::Head, _) | (Step::Rest, Intake::Whole | Intake::Unread(_)) => Poll::Pending,
            (Step::Rest, Intake::Open(_) | Intake::Left(_)) => {
                if ready!(self.wire.poll_intake(cx)).is_err() {
                    self.wire.intake = Intake::UNREAD;
                } else if self.timed == Phase::Idle {
                    self.enter(Phase::Idle);
                }
                Poll::Ready(Ok(()))
            }
            _ => self.wire.poll_intake(cx),
        }
    }

    /// Ready when there is a next step, or the end.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        match self.step.as_mut().project() {
            StepProjection::Head => self.poll_head(cx),
            StepProjection::Unready { request } => {
                let Ok(()) = ready!(self.stack.poll_ready(cx));
                let request = request.take().expect("the step ends with its request");
                self.ask(request);
                Poll::Ready(None)
            }
            StepProjection::Asked { answer } => {
                let Ok(answer) = ready!(answer.poll(cx));
                self.begin_answer(answer);
                Poll::Ready(None)
            }
            StepProjection::Answer { .. } => self.poll_answer(cx).map(|()| None),
            StepProjection::Rest => self.poll_rest(),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        match self.wire.poll_request(cx) {
            Poll::Ready(Some(Ok(arrival))) => self.begin(arrival, cx),
            Poll::Ready(Some(Err(refused))) => self.refuse(refused),
            Poll::Ready(None) => return Poll::Ready(Some(End::Closed)),
            Poll::Pending if self.is_last && !self.wire.reader.has_begun() => {
                return Poll::Ready(Some(End::Closed));
            }
            Poll::Pending => {
                if self.timed == Phase::Idle && self.wire.reader.has_begun() {
                    self.enter(Phase::Head);
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(None)
    }

    fn begin(&mut self, arrival: Box<Arrival>, cx: &mut Context<'_>) {
        self.enter(Phase::Exchange);
        let (exchange, way, intake) = self.terms.begin(arrival, cx.waker());
        self.wire.intake = intake;
        self.exchange = Some(exchange);
        match way {
            Way::Back(answer) => self.answer_at_once(answer),
            Way::Stack(request) => match self.stack.poll_ready(cx) {
                Poll::Ready(Ok(())) => self.ask(request),
                Poll::Pending => {
                    let request = Some(request);
                    self.step.set(Step::Unready { request });
                }
            },
        }
    }

    fn ask(&mut self, request: Request<RequestBody>) {
        let answer = self.stack.call(request);
        self.step.set(Step::Asked { answer });
    }

    /// Answers what is no request; where it ends is not known, so nothing can follow it.
    fn refuse(&mut self, Refused(status): Refused) {
        self.wire.intake = Intake::UNREAD;
        self.is_last = true;
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = status;
        self.answer_at_once(answer);
    }

    fn answer_at_once(&mut self, answer: Response<Full<Bytes>>) {
        let (head, body) = answer.into_parts();
        let mut encoder = self.write_head(head, &body);
        if encoder != Encoder::Length(0) {
            let data = body.into_inner().unwrap_or_default();
            self.broken = encoder
                .put(data, &mut self.wire.outbox)
                .err()
                .map(Into::into);
        }
        self.end_answer();
    }

    fn begin_answer(&mut self, answer: Response<B>) {
        let (head, body) = answer.into_parts();
        let encoder = self.write_head(head, &body);
        match encoder == Encoder::Length(0) || body.is_end_stream() {
            true => {
                self.broken = encoder.end(&mut self.wire.outbox).err().map(Into::into);
                drop(body);
                self.end_answer();
            }
            false => self.step.set(Step::Answer { body, encoder }),
        }
    }

    fn write_head(&mut self, mut head: response::Parts, body: &impl Body) -> Encoder {
        let mut asked = Asked {
            version: Version::HTTP_11,
            is_head: false,
        };
        let mut keeps_alive = self.wire.intake.answered() && !self.is_last;
        if let Some(exchange) = &mut self.exchange {
            asked = exchange.asked;
            keeps_alive &= exchange.keeps_alive;
            self.terms.finish_head(exchange, &mut head);
        }
        let encoder = frame(asked, &mut head, body);
        if encoder == Encoder::UntilClose {
            // Whatever ends the connection before the answer's end shall not pass for that.
            self.wire.close_by_reset(true);
            keeps_alive = false;
        }
        self.is_last = !settle_connection(asked, keeps_alive, &mut head);
        write_head(asked.version, &head, self.wire.outbox.buffer());
        keep_map(head.headers);
        encoder
    }

    /// Takes from the body what it has; ready when it has come to its end.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let StepProjection::Answer { mut body, encoder } = self.step.as_mut().project() else {
            return Poll::Ready(());
        };
        let outbox = &mut self.wire.outbox;
        let end = loop {
            if outbox.is_full(ENOUGH) {
                return Poll::Pending;
            }
            let frame = match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => break Err(error.into()),
                None => break encoder.end(outbox).map_err(Into::into),
            };
            // No client has asked for trailers: the gateway says to none that it would send them.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if let Err(error) = encoder.put(data, outbox) {
                break Err(error.into());
            }
            if body.is_end_stream() {
                break encoder.end(outbox).map_err(Into::into);
            }
        };
        self.broken = end.err();
        self.end_answer();
        Poll::Ready(())
    }

    fn end_answer(&mut self) {
        self.step.set(Step::Rest);
        self.exchange = None;
        self.enter(Phase::Rest);
    }

    fn poll_rest(&mut self) -> Poll<Option<End>> {
        if !self.wire.outbox.is_empty() {
            return Poll::Pending;
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(End::Broken(error)));
        }
        self.wire.close_by_reset(false);
        match &self.wire.intake {
            Intake::Whole if !self.is_last => {}
            Intake::Whole | Intake::Unread(_) => return Poll::Ready(Some(End::Closed)),
            Intake::Left(_) => return Poll::Pending,
            Intake::Open(_) => {
                // Somebody holds the body still, and may never read it.
                if self.timed == Phase::Rest {
                    self.enter(Phase::Idle);
                }
                return Poll::Pending;
            }
        }
        self.step.set(Step::Head);
        self.enter(match self.wire.reader.has_begun() {
            true => Phase::Head,
            false => Phase::Idle,
        });
        Poll::Ready(None)
    }

    fn enter(&mut self, phase: Phase) {
        self.timed = phase;
        self.clock.start(match phase {
            Phase::Head => Some(self.limits.header),
            Phase::Idle => Some(self.limits.keep_alive),
            Phase::Exchange => self.limits.total,
            Phase::Rest => None,
        });
    }
}

/// Closes a socket on which bytes may arrive that nobody wants. Closed outright, the kernel
/// would answer them with a reset, and the reset can destroy an answer that the client has not
/// read yet. So: the end of our side first, then reading for a while, then the close.
pub(super) async fn linger(mut stream: Stream) {
    let end = std::future::poll_fn(move |cx| {
        let mut stream = Pin::new(&mut stream);
        if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut discarded = 0;
        let mut piece = [std::mem::MaybeUninit::uninit(); 8 * 1024];
        while discarded < DISCARD_BYTES {
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(stream.as_mut().poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => discarded += piece.filled().len(),
                _ => return Poll::Ready(()),
            }
        }
        // Whoever still sends is held by its window until the time is over.
        Poll::Pending
    });
    let _ = tokio::time::timeout(DISCARD_TIME, end).await;
}
