//! A layer to measure, and the same service without it.

use std::fmt::Debug;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;
use tower_layer::Layer;

use super::exchange::{Backend, ClientBody, is_served, request};

/// A layer to measure, and the same service without it.
pub(crate) struct Subject {
    name: &'static str,
    backend: Backend,
    without: Box<dyn Fn()>,
    with: Box<dyn Fn()>,
}

impl Subject {
    /// `layer` around a backend.
    pub(crate) fn new<L, R>(name: &'static str, layer: L) -> Self
    where
        L: Layer<Backend>,
        L::Service: Service<Request<ClientBody>, Response = Response<R>, Error: Debug>,
        L::Service: Clone + 'static,
        R: Body<Data = Bytes, Error: Debug>,
    {
        Self::within(name, tower_layer::Identity::new(), layer)
    }

    /// `layer` around a backend, inside of `outer`. The layer needs `outer`, whose cost is not
    /// counted.
    pub(crate) fn within<O, L, R, Q>(name: &'static str, outer: O, layer: L) -> Self
    where
        L: Layer<Backend>,
        O: Layer<Backend> + Layer<L::Service>,
        <O as Layer<Backend>>::Service: Clone + 'static,
        <O as Layer<L::Service>>::Service: Clone + 'static,
        <O as Layer<Backend>>::Service:
            Service<Request<ClientBody>, Response = Response<Q>, Error: Debug>,
        <O as Layer<L::Service>>::Service:
            Service<Request<ClientBody>, Response = Response<R>, Error: Debug>,
        Q: Body<Data = Bytes, Error: Debug>,
        R: Body<Data = Bytes, Error: Debug>,
    {
        Self::exchanging(name, request(), Backend::default(), outer, layer)
    }

    /// Like [`within`](Self::within), for this request and this backend.
    pub(crate) fn exchanging<O, L, R, Q>(
        name: &'static str,
        request: Request<ClientBody>,
        backend: Backend,
        outer: O,
        layer: L,
    ) -> Self
    where
        L: Layer<Backend>,
        O: Layer<Backend> + Layer<L::Service>,
        <O as Layer<Backend>>::Service: Clone + 'static,
        <O as Layer<L::Service>>::Service: Clone + 'static,
        <O as Layer<Backend>>::Service:
            Service<Request<ClientBody>, Response = Response<Q>, Error: Debug>,
        <O as Layer<L::Service>>::Service:
            Service<Request<ClientBody>, Response = Response<R>, Error: Debug>,
        Q: Body<Data = Bytes, Error: Debug>,
        R: Body<Data = Bytes, Error: Debug>,
    {
        Self {
            name,
            without: passing(outer.layer(backend.clone()), request.clone()),
            with: passing(outer.layer(layer.layer(backend.clone())), request),
            backend,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The backend, which knows the number of chunks.
    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// One request, with the layer.
    pub(crate) fn pass(&self) {
        (self.with)();
    }

    /// One request, without the layer.
    pub(crate) fn pass_without(&self) {
        (self.without)();
    }
}

fn passing<S, R>(service: S, request: Request<ClientBody>) -> Box<dyn Fn()>
where
    S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone + 'static,
    R: Body<Data = Bytes, Error: Debug>,
{
    // A server clones its service for each request.
    Box::new(move || assert!(is_served(service.clone(), request.clone())))
}
