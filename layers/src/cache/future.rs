//! The future of the response head.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;

use super::CacheBody;
use super::body::Participant;
use super::store::Entry;
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
        PassThrough {
            #[pin]
            inner: F,
        },
        Shared { participant: Option<Participant> },
        Cached { entry: Option<Entry> },
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
    pub(super) fn pass_through(inner: F) -> Self {
        Self {
            kind: Kind::PassThrough { inner },
            status: None,
        }
    }

    pub(super) fn bypassed(inner: F, name: &str) -> Self {
        Self {
            kind: Kind::PassThrough { inner },
            status: Status::Bypass.header(name),
        }
    }

    pub(super) fn shared(participant: Participant, status: Status, name: &str) -> Self {
        Self {
            kind: Kind::Shared {
                participant: Some(participant),
            },
            status: status.header(name),
        }
    }

    pub(super) fn cached(entry: Entry, name: &str) -> Self {
        Self {
            kind: Kind::Cached { entry: Some(entry) },
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
            KindProjection::PassThrough { inner } => {
                let answer = ready!(inner.poll(cx)).map_err(Into::into)?;
                answer.map(CacheBody::pass_through)
            }
            KindProjection::Shared { participant } => {
                let Some(waiting) = participant else {
                    return Poll::Pending;
                };
                let mut head = ready!(waiting.flight.poll_head(waiting.id, cx))?;
                let Some(participant) = participant.take() else {
                    return Poll::Pending;
                };
                if !participant.reports() {
                    // One participant has the usage report; otherwise it would count twice.
                    head.extensions.clear();
                }
                Response::from_parts(head, CacheBody::shared(participant))
            }
            KindProjection::Cached { entry } => {
                let Some(entry) = entry.take() else {
                    return Poll::Pending;
                };
                let has_length = entry.head.headers.contains_key(CONTENT_LENGTH);
                let body = CacheBody::cached(Arc::clone(&entry.frames), has_length);
                Response::from_parts(entry.head, body)
            }
        };
        if let Some(status) = this.status.take() {
            answer.headers_mut().insert(CACHE_STATUS, status);
        }
        Poll::Ready(Ok(answer))
    }
}
