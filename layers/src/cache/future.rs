//! The future of the response head.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;

use super::CacheBody;
use super::body::Twin;
use super::store::Kept;
use crate::BoxError;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pin_project! {
    /// The future of [`CacheService`](super::CacheService).
    #[derive(Debug)]
    pub struct CacheFuture<F> {
        #[pin]
        kind: Kind<F>,
        status: Option<HeaderValue>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<F> {
        Passed {
            #[pin]
            inner: F,
        },
        Shared { twin: Option<Twin> },
        Kept { kept: Option<Kept> },
    }
}

/// The result of the cache lookup, in the terms of RFC 9211.
#[derive(Clone, Copy, Debug)]
pub(super) enum Status {
    Hit,
    Miss,
    Collapsed,
    Bypass,
}

impl Status {
    fn header(self, name: &str) -> Option<HeaderValue> {
        let what = match self {
            Self::Hit => "hit",
            Self::Miss => "fwd=miss",
            Self::Collapsed => "fwd=miss; collapsed",
            Self::Bypass => "fwd=bypass",
        };
        HeaderValue::try_from(format!("{name}; {what}")).ok()
    }
}

impl<F> CacheFuture<F> {
    pub(super) fn passed(inner: F) -> Self {
        Self {
            kind: Kind::Passed { inner },
            status: None,
        }
    }

    pub(super) fn bypassed(inner: F, name: &str) -> Self {
        Self {
            kind: Kind::Passed { inner },
            status: Status::Bypass.header(name),
        }
    }

    pub(super) fn shared(twin: Twin, status: Status, name: &str) -> Self {
        Self {
            kind: Kind::Shared { twin: Some(twin) },
            status: status.header(name),
        }
    }

    pub(super) fn kept(kept: Kept, name: &str) -> Self {
        Self {
            kind: Kind::Kept { kept: Some(kept) },
            status: Status::Hit.header(name),
        }
    }
}

impl<F, B, E> Future for CacheFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<CacheBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = match this.kind.project() {
            KindProjection::Passed { inner } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into)?;
                answer.map(CacheBody::passed)
            }
            KindProjection::Shared { twin } => {
                let Some(waiting) = twin else {
                    return Poll::Pending;
                };
                let mut head = ready!(waiting.flight.poll_head(waiting.id, cx))?;
                let Some(twin) = twin.take() else {
                    return Poll::Pending;
                };
                if !twin.is_first {
                    // Only the first participant reports usage; otherwise it would count twice.
                    head.extensions.clear();
                }
                Response::from_parts(head, CacheBody::shared(twin))
            }
            KindProjection::Kept { kept } => {
                let Some(kept) = kept.take() else {
                    return Poll::Pending;
                };
                let has_length = kept.head.headers.contains_key(CONTENT_LENGTH);
                let body = CacheBody::kept(Arc::clone(&kept.frames), has_length);
                Response::from_parts(kept.head, body)
            }
        };
        if let Some(status) = this.status.take() {
            answer.headers_mut().insert(CACHE_STATUS, status);
        }
        Poll::Ready(Ok(answer))
    }
}
