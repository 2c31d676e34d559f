//! The future of a response, with its permit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{AtCapacity, Permit};
use crate::body::Guarded;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`AdmissionService`](super::AdmissionService).
    #[derive(Debug)]
    pub struct AdmissionFuture<F> {
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
        },
        Refused { refusal: AtCapacity },
    }
}

impl<F> AdmissionFuture<F> {
    pub(super) fn admitted(inner: F, permit: Permit) -> Self {
        let permit = Some(permit);
        Self {
            state: State::Admitted { inner, permit },
        }
    }

    pub(super) fn refused(refusal: AtCapacity) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }
}

impl<F, R, E> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<Guarded<R, Permit>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Refused { refusal } => {
                Poll::Ready(Err(Failure::from(*refusal).into()))
            }
            StateProjection::Admitted { inner, permit } => {
                let answer = ready!(inner.poll(cx));
                // Taken on an error too, so that a caller who keeps the future does not keep the
                // permit.
                let permit = permit.take().expect("a future is not polled after its end");
                Poll::Ready(match answer {
                    Ok(response) => Ok(response.map(|body| Guarded::new(body, permit))),
                    Err(error) => Err(error.into()),
                })
            }
        }
    }
}
