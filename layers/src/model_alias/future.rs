//! The future of the response head.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::ModelAliasBody;
use crate::{BoxError, Failure};

type Trying<R> =
    Pin<Box<dyn Future<Output = Result<Response<ModelAliasBody<R>>, BoxError>> + Send>>;

pin_project! {
    /// The future of [`ModelAliasService`](super::ModelAliasService).
    #[must_use = "futures do nothing unless polled"]
    pub struct ModelAliasFuture<F, R> {
        #[pin]
        kind: Kind<F, R>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, R> {
        Passing { #[pin] inner: F },
        Trying { trying: Trying<R> },
        Refused { failure: Option<Failure> },
    }
}

impl<F, R> ModelAliasFuture<F, R> {
    pub(super) fn passing(inner: F) -> Self {
        Self {
            kind: Kind::Passing { inner },
        }
    }

    pub(super) fn trying(
        trying: impl Future<Output = Result<Response<ModelAliasBody<R>>, BoxError>> + Send + 'static,
    ) -> Self {
        Self {
            kind: Kind::Trying {
                trying: Box::pin(trying),
            },
        }
    }

    pub(super) fn refused(failure: Failure) -> Self {
        Self {
            kind: Kind::Refused {
                failure: Some(failure),
            },
        }
    }
}

impl<F, R, E> Future for ModelAliasFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ModelAliasBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Passing { inner } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into)?;
                Poll::Ready(Ok(answer.map(ModelAliasBody::pass_through)))
            }
            KindProjection::Trying { trying } => trying.as_mut().poll(cx),
            KindProjection::Refused { failure } => match failure.take() {
                Some(failure) => Poll::Ready(Err(failure.into())),
                None => Poll::Pending,
            },
        }
    }
}

impl<F, R> fmt::Debug for ModelAliasFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelAliasFuture").finish_non_exhaustive()
    }
}
