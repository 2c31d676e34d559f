//! Reads the body, then calls the inner service with it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::request::Parts;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::buffering::Buffering;
use crate::body::{BodyReadTimeout, ClientBodyFailed, ReplayBody};
use crate::shared::record_wait;
use crate::{BoxError, Deadline, Failure};

/// The future of [`BodyLimitService`](super::BodyLimitService).
///
/// Boxed: the body, the waiting head and all inner futures take kilobytes, which each outer future
/// would move with itself.
#[must_use = "futures do nothing unless polled"]
pub struct BodyLimitFuture<S, B>(Pin<Box<Steps<S, B>>>)
where
    S: Service<Request<ReplayBody<B>>>;

pin_project! {
    struct Steps<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        inner: S,
        head: Option<Parts>,
        #[pin]
        state: State<S::Future, B>,
    }
}

pin_project! {
    #[project = StateProjected]
    enum State<F, B> {
        Refused { failure: Option<Failure> },
        Reading { #[pin] reading: Reading<B> },
        Forwarding { body: Option<ReplayBody<B>> },
        Called { #[pin] future: F },
    }
}

impl<S, B> BodyLimitFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn boxed(inner: S, head: Option<Parts>, state: State<S::Future, B>) -> Self {
        Self(Box::pin(Steps { inner, head, state }))
    }

    pub(super) fn refused(inner: S, failure: Failure) -> Self {
        let failure = Some(failure);
        Self::boxed(inner, None, State::Refused { failure })
    }

    pub(super) fn reading(inner: S, head: Parts, body: B, buffering: Buffering) -> Self {
        let reading = Reading {
            body,
            pause: Deadline::default(),
            promise: Deadline::default(),
            buffering: Some(buffering),
        };
        Self::boxed(inner, Some(head), State::Reading { reading })
    }

    pub(super) fn forwarding(inner: S, head: Parts, body: ReplayBody<B>) -> Self {
        let body = Some(body);
        Self::boxed(inner, Some(head), State::Forwarding { body })
    }
}

impl<S, B> Future for BodyLimitFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<S, B> Future for Steps<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjected::Refused { failure } => {
                    let failure = failure.take().expect("polled after it was ready");
                    return Poll::Ready(Err(failure.into()));
                }
                StateProjected::Reading { reading } => {
                    let (body, waited) = ready!(reading.poll(cx))?;
                    if let Some((waited, head)) = waited.zip(this.head.as_ref()) {
                        record_wait(&head.extensions, waited);
                    }
                    State::Forwarding { body: Some(body) }
                }
                StateProjected::Forwarding { body } => {
                    ready!(this.inner.poll_ready(cx)).map_err(Into::into)?;
                    let head = this.head.take().expect("polled after it was ready");
                    let body = body.take().expect("taken together with the head");
                    State::Called {
                        future: this.inner.call(Request::from_parts(head, body)),
                    }
                }
                StateProjected::Called { future } => return future.poll(cx).map_err(Into::into),
            };
            this.state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for BodyLimitFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimitFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Reads a body to its end.
    struct Reading<B> {
        #[pin]
        body: B,
        pause: Deadline,
        promise: Deadline,
        buffering: Option<Buffering>,
    }
}

impl<B> Future for Reading<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// The body, and how long it was waited for; `None` if all of it was there at once.
    type Output = Result<(ReplayBody<B>, Option<Duration>), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let buffering = this.buffering.as_mut().expect("polled after it was ready");
        loop {
            match this.body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.pause.disarm();
                    // Inner services do not use trailers.
                    if let Ok(data) = frame.into_data() {
                        buffering.push(data)?;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(ClientBodyFailed::mark(error)));
                }
                Poll::Ready(None) => break,
                Poll::Pending => {
                    if let Some(end) = buffering.promise_ends() {
                        this.promise.arm(end);
                        if this.promise.poll(cx).is_ready() {
                            buffering.end_promise();
                        }
                    }
                    let (limit, latest) = (buffering.read_timeout(), buffering.deadline());
                    let timeout = ready!(BodyReadTimeout::poll(this.pause, limit, latest, cx));
                    return Poll::Ready(Err(Failure::from(timeout).into()));
                }
            }
        }
        let buffering = this.buffering.take().expect("it was there above");
        let waited = buffering.waited();
        Poll::Ready(Ok((buffering.finish(), waited)))
    }
}
