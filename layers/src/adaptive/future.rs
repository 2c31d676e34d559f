//! The future of a response, with its permit and its measurement.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;

use super::permit::Measurement;
use super::{AdaptiveBody, LimitReached, Permit};
use crate::body::Guarded;
use crate::classify::Class;
use crate::{BoxError, ErrorCause, Failure, Side};

pin_project! {
    /// The future of [`AdaptiveService`](super::AdaptiveService).
    #[derive(Debug)]
    pub struct AdaptiveFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Admitted {
            #[pin]
            inner: F,
            permit: Option<Permit>,
            measurement: Measurement,
        },
        Unlimited {
            #[pin]
            inner: F,
        },
        Refused { refusal: LimitReached },
    }
}

impl<F> AdaptiveFuture<F> {
    pub(super) fn admitted(inner: F, permit: Permit, measurement: Measurement) -> Self {
        let permit = Some(permit);
        Self {
            state: State::Admitted {
                inner,
                permit,
                measurement,
            },
        }
    }

    pub(super) fn unlimited(inner: F) -> Self {
        Self {
            state: State::Unlimited { inner },
        }
    }

    pub(super) fn refused(refusal: LimitReached) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }
}

impl<F, R, E> Future for AdaptiveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<Guarded<AdaptiveBody<R>, Permit>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { refusal } => {
                Poll::Ready(Err(Failure::from(*refusal).into()))
            }
            StateProjection::Unlimited { inner } => {
                let answer = match ready!(inner.poll(cx)) {
                    Ok(answer) => answer,
                    Err(error) => return Poll::Ready(Err(error.into())),
                };
                let unmeasured = |body| AdaptiveBody::new(body, Measurement::none());
                Poll::Ready(Ok(answer.map(|body| Guarded::maybe(unmeasured(body), None))))
            }
            StateProjection::Admitted {
                inner,
                permit,
                measurement,
            } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into);
                // Taken on an error too, so that a caller who keeps the future does not keep the
                // permit.
                let permit = permit.take().expect("a future is not polled after its end");
                match Refusal::of(&answer) {
                    Some(Refusal::Overload) => measurement.overloaded(),
                    Some(Refusal::Elsewhere) => measurement.end_without_byte(),
                    Some(Refusal::Other) => measurement.forget(),
                    None => {}
                }
                let measurement = std::mem::replace(measurement, Measurement::none());
                Poll::Ready(answer.map(|answer| {
                    answer.map(|body| Guarded::new(AdaptiveBody::new(body, measurement), permit))
                }))
            }
        }
    }
}

/// What a response without success shows about the load of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The server is overloaded.
    Overload,
    /// A layer between this one and the server has refused the request, such as a queue that is full.
    Elsewhere,
    /// Nothing.
    Other,
}

impl Refusal {
    /// `None` if the response is successful.
    fn of<R>(answer: &Result<Response<R>, BoxError>) -> Option<Self> {
        let (side, status) = match answer {
            Ok(answer) if answer.status().is_success() => return None,
            Ok(answer) if ErrorCause::of(answer.extensions()).is_some() => {
                return Some(Self::Other);
            }
            Ok(answer) => (Side::Upstream, answer.status()),
            Err(error) => match (Failure::find(&**error), Class::of(&**error)) {
                (Some(failure), _) => (failure.side(), failure.status()),
                (None, Some(class)) => (class.side(), class.status()),
                (None, None) => return Some(Self::Other),
            },
        };
        let is_refusal = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        Some(match side {
            Side::Upstream if is_refusal => Self::Overload,
            Side::Gateway if is_refusal => Self::Elsewhere,
            _ => Self::Other,
        })
    }
}
