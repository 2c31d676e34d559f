//! The service.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::Participant;
use super::flight::{BoxBody, Exchange, NewExchange};
use super::future::Status;
use super::key::{Lookup, lookup};
use super::reporters::Place;
use super::store::Joined;
use super::{CacheBody, CacheFuture, CacheLayer};
use crate::body::Buffered;
use crate::service::accessors;
use crate::{BoxError, Dialect, Operation, RouteMatch};

/// The service of [`CacheLayer`].
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    pub(super) inner: S,
    pub(super) layer: CacheLayer,
}

accessors!([S] CacheService<S>, CacheLayer);

impl<S, B, R> Service<Request<B>> for CacheService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Buffered,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<CacheBody<R>>;
    type Error = BoxError;
    type Future = CacheFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { inner, layer } = self;
        if !layer.is_on {
            return CacheFuture::pass_through(inner.call(request));
        }
        let (parts, body) = request.into_parts();
        let asked = match body.segments() {
            Some(segments) => lookup(
                &parts,
                segments,
                || (layer.version_of)(&parts),
                || layer.tenant_of.as_ref().and_then(|of| of(&parts)),
            ),
            None => Lookup::NotCacheable,
        };
        let (dialect, operation) = dialect_and_operation(&parts);
        let request = Request::from_parts(parts, body);
        let key = match asked {
            Lookup::By(key) => key,
            Lookup::Declined => return CacheFuture::bypassed(inner.call(request), &layer.name),
            Lookup::NotCacheable => return CacheFuture::pass_through(inner.call(request)),
        };
        if let Some(entry) = layer.store.get(&key) {
            layer.counts.hits.fetch_add(1, Relaxed);
            #[cfg(feature = "outcome")]
            crate::Record::update_in(request.extensions(), |outcome| outcome.cache = Some("hit"));
            return CacheFuture::cached(entry, &layer.name);
        }
        let new = NewExchange {
            place: Place::of(request.extensions()),
            dialect,
            operation,
        };
        let counts = &layer.counts;
        let (participant, status, count) = match layer.store.join(key, new) {
            Joined::Leader(flight) => {
                flight.start(|| exchange(inner.call(request)));
                (Participant::leader(flight), Status::Miss, &counts.misses)
            }
            Joined::Follower(flight, place) => {
                #[cfg(feature = "outcome")]
                crate::Record::update_in(request.extensions(), |outcome| {
                    outcome.cache = Some("collapsed");
                });
                let participant = Participant::follower(flight, place);
                (participant, Status::Collapsed, &counts.collapsed)
            }
        };
        count.fetch_add(1, Relaxed);
        CacheFuture::shared(participant, status, &layer.name)
    }
}

/// The exchange whose response the inner service will give.
fn exchange<F, R, E>(answering: F) -> Exchange
where
    F: Future<Output = Result<Response<R>, E>> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
    E: Into<BoxError>,
{
    Box::pin(async {
        let answer = answering.await.map_err(Into::into)?;
        Ok(answer.map(|inner| -> BoxBody { Box::pin(Erased { inner }) }))
    })
}

fn dialect_and_operation(parts: &http::request::Parts) -> (Dialect, Operation) {
    let route = RouteMatch::of(&parts.extensions);
    let operation = route.and_then(RouteMatch::operation);
    let dialect = route.map_or(Dialect::Text, RouteMatch::dialect);
    (dialect, operation.unwrap_or(Operation::Extra))
}

pin_project! {
    /// A body with a boxed error.
    struct Erased<B> {
        #[pin]
        inner: B,
    }
}

impl<B> Body for Erased<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
