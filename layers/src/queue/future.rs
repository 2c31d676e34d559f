//! The future of a queued request: it waits for a slot, then calls the service with its permit.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Meter, Permit, SlotPool, Ticket};
use crate::BoxError;
use crate::body::Guarded;

pin_project! {
    /// The future of [`QueueService`](super::QueueService).
    pub struct QueueFuture<S, B, C, K>
    where
        S: Service<Request<B>>,
        C: Clone,
        C: Eq,
        C: Hash,
        K: Clone,
        K: Eq,
        K: Hash,
    {
        #[pin]
        stage: Stage<S::Future, C, K>,
        // The service and the request, until the call.
        call: Option<(S, Request<B>)>,
        meter: Option<Meter>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F, C, K>
    where
        C: Clone,
        C: Eq,
        C: Hash,
        K: Clone,
        K: Eq,
        K: Hash,
    {
        Waiting {
            #[pin]
            ticket: Ticket<SlotPool<C, K>>,
        },
        AwaitingService { permit: Option<Permit<SlotPool<C, K>>> },
        Calling {
            #[pin]
            answer: F,
            permit: Option<Permit<SlotPool<C, K>>>,
        },
        Done { error: Option<BoxError> },
    }
}

impl<S, B, C, K> QueueFuture<S, B, C, K>
where
    S: Service<Request<B>>,
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
{
    pub(super) fn waiting(
        ticket: Ticket<SlotPool<C, K>>,
        service: S,
        request: Request<B>,
        meter: Option<Meter>,
    ) -> Self {
        Self {
            stage: Stage::Waiting { ticket },
            call: Some((service, request)),
            meter,
        }
    }

    pub(super) fn refused(error: BoxError) -> Self {
        let error = Some(error);
        Self {
            stage: Stage::Done { error },
            call: None,
            meter: None,
        }
    }
}

impl<S, B, R, C, K> Future for QueueFuture<S, B, C, K>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
{
    type Output = Result<Response<Guarded<R, Permit<SlotPool<C, K>>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Waiting { ticket } => {
                    let stage = match ready!(ticket.poll(cx)) {
                        Ok(mut permit) => {
                            if let Some(meter) = &*this.meter {
                                permit.set_meter(meter.clone());
                            }
                            let permit = Some(permit);
                            Stage::AwaitingService { permit }
                        }
                        Err(error) => Stage::Done { error: Some(error) },
                    };
                    this.stage.set(stage);
                }
                StageProjection::AwaitingService { permit } => {
                    let (service, _) = this.call.as_mut().expect("it was not called yet");
                    let stage = match ready!(service.poll_ready(cx)) {
                        Ok(()) => {
                            let permit = permit.take();
                            let (mut service, request) =
                                this.call.take().expect("it was not called yet");
                            let answer = service.call(request);
                            Stage::Calling { answer, permit }
                        }
                        Err(error) => {
                            if let Some(permit) = permit.take() {
                                permit.unused();
                            }
                            let error = Some(error.into());
                            Stage::Done { error }
                        }
                    };
                    this.stage.set(stage);
                }
                StageProjection::Calling { answer, permit } => {
                    let answer = ready!(answer.poll(cx)).map_err(Into::into);
                    let permit = permit.take();
                    // Drops the permit's place in the future, so that a caller who keeps the future
                    // does not keep the slot.
                    this.stage.set(Stage::Done { error: None });
                    let permit = permit.expect("a call has its permit");
                    return Poll::Ready(answer.map(|mut answer| {
                        if let Some(meter) = this.meter.take() {
                            answer.extensions_mut().insert(meter);
                        }
                        answer.map(|body| Guarded::new(body, permit))
                    }));
                }
                StageProjection::Done { error } => {
                    // Drops the request of a refused call, which waits for nothing.
                    *this.call = None;
                    let error = error.take().expect("a future is not polled after its end");
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<S, B, C, K> fmt::Debug for QueueFuture<S, B, C, K>
where
    S: Service<Request<B>>,
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Waiting { .. } => "waiting",
            Stage::AwaitingService { .. } => "has a slot",
            Stage::Calling { .. } => "called",
            Stage::Done { .. } => "done",
        };
        f.debug_tuple("QueueFuture").field(&stage).finish()
    }
}
