//! The stack: what the edge needs of it, and how hyper calls it.

use std::cell::RefCell;
use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::service::Service as HyperService;
use llamatower_layers::BoxError;
use tower::Service;

use super::request_body::RequestBody;
use crate::reuse::CallFuture;

/// A service that the edge can serve: it is cloned for each connection, and answers each request, because
/// what is left of an error at the edge would have no dialect.
pub trait HttpStack:
    Service<
        Request<RequestBody>,
        Response = Response<<Self as HttpStack>::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpStack for S
where
    S: Service<
            Request<RequestBody>,
            Response = Response<B>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

/// The stack of one connection. hyper-util's `TowerToHyperService` clones the service for each request: for
/// the layers of the gateway this costs 1,350 instructions, and more when the clone is dropped. Here all
/// requests of a connection call the same instance; it is cloned only if it is not ready at once.
#[derive(Debug)]
pub(super) struct Stack<S>(RefCell<S>);

impl<S> Stack<S> {
    pub(super) fn new(service: S) -> Self {
        Self(RefCell::new(service))
    }
}

impl<S, R> HyperService<R> for Stack<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallFuture<S, R>;

    fn call(&self, request: R) -> Self::Future {
        CallFuture::of(&mut self.0.borrow_mut(), request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::reuse::tests::Slow;

    #[tokio::test]
    async fn only_a_service_that_is_not_ready_is_cloned() {
        let slow = Slow::new();
        let clones = slow.clones.clone();
        let stack = Stack::new(slow);
        assert_eq!(
            stack.call(1).await,
            Ok(2),
            "it waits until a clone is ready"
        );
        assert_eq!(clones.load(Relaxed), 1);
        assert_eq!(stack.call(2).await, Ok(3), "by now it is ready");
        assert_eq!(clones.load(Relaxed), 1);
    }
}
