//! A request until the head of its answer has come.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response};
use http_body::Body;
use llamatower_layers::BoxError;
use tokio::net::TcpStream;

use super::link::{Flow, OnContinue, Unanswered};
use super::send::Sending;
use super::{Shared, UpstreamBody};

type Connecting = Pin<Box<dyn Future<Output = Result<TcpStream, BoxError>> + Send>>;

/// The future of [`Upstream`](super::Upstream).
#[must_use = "futures do nothing unless polled"]
pub struct UpstreamFuture<B> {
    shared: Arc<Shared>,
    method: Method,
    on_continue: Option<OnContinue>,
    /// In a box, in which it becomes that of the answer's body; `None` from then on.
    flow: Option<Box<Flow<B>>>,
    step: Step,
}

enum Step {
    /// There is no connection.
    Start,
    Connecting(Connecting),
    /// The request is on its way, over a connection that was used before or not.
    Asked {
        is_reused: bool,
    },
}

impl<B> UpstreamFuture<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        shared: Arc<Shared>,
        sending: Sending<B>,
        method: Method,
        on_continue: Option<OnContinue>,
    ) -> Self {
        Self {
            shared,
            method,
            on_continue,
            flow: Some(Box::new(Flow::new(sending))),
            step: Step::Start,
        }
    }

    fn connect(&self) -> Connecting {
        let shared = self.shared.clone();
        Box::pin(async move { shared.connector.connect().await })
    }
}

impl<B> Future for UpstreamFuture<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<UpstreamBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let flow = this.flow.as_mut().expect("polled after it was ready");
            this.step = match &mut this.step {
                Step::Start => match this.shared.pool.check_out() {
                    Some(stream) => {
                        flow.begin_on(stream);
                        Step::Asked { is_reused: true }
                    }
                    None => Step::Connecting(this.connect()),
                },
                Step::Connecting(connecting) => {
                    flow.begin_on(ready!(connecting.as_mut().poll(cx))?);
                    Step::Asked { is_reused: false }
                }
                Step::Asked { is_reused } => {
                    match ready!(flow.poll_head(&this.method, this.on_continue.as_ref(), cx)) {
                        Ok(head) => {
                            let flow = this.flow.take().expect("it was there above");
                            let body = UpstreamBody::new(flow, this.shared.pool.clone());
                            return Poll::Ready(Ok(Response::from_parts(head, body)));
                        }
                        // The server may have closed it before the request came.
                        Err(Unanswered::Lost(_)) if *is_reused && flow.is_unsent() => Step::Start,
                        Err(cause) => {
                            return Poll::Ready(Err(this.shared.failed(cause, *is_reused)));
                        }
                    }
                }
            };
        }
    }
}

impl<B> fmt::Debug for UpstreamFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamFuture").finish_non_exhaustive()
    }
}
