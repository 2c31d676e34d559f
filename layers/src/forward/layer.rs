//! The layer and its service.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, Uri, Version};
use tower_layer::Layer;
use tower_service::Service;

use super::address::Address;
use super::{ForwardFuture, InvalidServerAddress, NotForwarded, remove_hop_by_hop};
use crate::order;
use crate::service::accessors;
use crate::{BoxError, Failure};

/// Sends requests on to one server; see the [module](super).
#[derive(Clone, Debug)]
pub struct ForwardLayer {
    address: Arc<Address>,
}

impl ForwardLayer {
    /// To the server with this address, for example `http://127.0.0.1:11434`.
    ///
    /// # Errors
    ///
    /// The address has no scheme or no host, or it has a user name or a query.
    pub fn new(server: Uri) -> Result<Self, InvalidServerAddress> {
        let address = Arc::new(Address::of(server)?);
        Ok(Self { address })
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = ForwardService<S>;

    fn layer(&self, inner: S) -> ForwardService<S> {
        order::check::<S>("Forward");
        ForwardService {
            inner,
            address: self.address.clone(),
        }
    }
}

/// The service of [`ForwardLayer`].
#[derive(Clone, Debug)]
pub struct ForwardService<S> {
    inner: S,
    address: Arc<Address>,
}

accessors!([S] ForwardService<S>, ForwardLayer);

impl<S, B, R> Service<Request<B>> for ForwardService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ForwardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if request.method() == Method::CONNECT {
            return ForwardFuture::failed(Failure::from(NotForwarded::Tunnel));
        }
        if Address::is_ambiguous(request.uri().path()) {
            return ForwardFuture::failed(Failure::from(NotForwarded::AmbiguousPath));
        }
        match self.address.uri(request.uri()) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return ForwardFuture::failed(Failure::from(error)),
        }
        // The version of the client's connection says nothing about that to the server.
        *request.version_mut() = Version::HTTP_11;
        // Meant for this proxy.
        remove_hop_by_hop(request.headers_mut(), |name| *name == PROXY_AUTHORIZATION);
        let host = self.address.host.clone();
        request.headers_mut().insert(HOST, host);
        ForwardFuture::new(self.inner.call(request))
    }
}
