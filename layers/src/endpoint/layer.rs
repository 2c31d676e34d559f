//! The layer that looks up a request's endpoint.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::EndpointTable;
use crate::order;
use crate::service::accessors;

/// Puts the [`RouteMatch`](super::RouteMatch) of each request into its extensions.
///
/// Place it outermost: the dialect of errors and the names of spans depend on it. It refuses no
/// request; [`RouteMatch::require`](super::RouteMatch::require) does.
#[derive(Clone, Debug)]
pub struct EndpointLayer {
    table: Arc<EndpointTable>,
}

impl EndpointLayer {
    /// Looks requests up in `table`.
    pub fn new(table: EndpointTable) -> Self {
        Self {
            table: Arc::new(table),
        }
    }
}

impl<S> Layer<S> for EndpointLayer {
    type Service = EndpointService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("Endpoint");
        EndpointService {
            inner,
            table: self.table.clone(),
        }
    }
}

/// The service of [`EndpointLayer`].
#[derive(Clone, Debug)]
pub struct EndpointService<S> {
    pub(super) inner: S,
    pub(super) table: Arc<EndpointTable>,
}

accessors!([S] EndpointService<S>, EndpointLayer);

impl<S, B> Service<Request<B>> for EndpointService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let found = self.table.look_up(request.method(), request.uri().path());
        found.put_into(request.extensions_mut());
        self.inner.call(request)
    }
}
