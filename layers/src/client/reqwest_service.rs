//! The service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::request_body::SyncBody;
use crate::BoxError;
use crate::classify::classify;

/// reqwest's client as a `Service<http::Request<B>>` whose response body is a [`reqwest::Body`].
///
/// The request's URI must be absolute ([`ForwardLayer`](crate::forward) makes it so). Errors are
/// [classified](crate::classify). A client for a proxy is built without redirects
/// (`redirect::Policy::none()`), which are the caller's to follow.
#[derive(Clone, Debug, Default)]
pub struct ReqwestService {
    client: reqwest::Client,
}

impl ReqwestService {
    /// Sends requests by this client.
    pub fn new(client: reqwest::Client) -> Self {
        Self { client }
    }

    /// The client.
    pub fn get_ref(&self) -> &reqwest::Client {
        &self.client
    }
}

impl<B> Service<Request<B>> for ReqwestService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = BoxError;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ReqwestFuture {
        let client = self.client.clone();
        ReqwestFuture(Box::pin(async move {
            let request = request.map(|body| reqwest::Body::wrap(SyncBody::new(body)));
            let request = reqwest::Request::try_from(request).map_err(classify)?;
            let answer = client.execute(request).await.map_err(classify)?;
            Ok(answer.into())
        }))
    }
}

type Answer = Result<Response<reqwest::Body>, BoxError>;

/// The future of [`ReqwestService`].
#[must_use = "futures do nothing unless polled"]
pub struct ReqwestFuture(Pin<Box<dyn Future<Output = Answer> + Send>>);

impl Future for ReqwestFuture {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ReqwestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestFuture").finish_non_exhaustive()
    }
}
