//! The stack: what the edge needs of it, and how hyper calls it.

use std::convert::Infallible;
use std::fmt;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::service::Service as HyperService;
use llamatower_layers::BoxError;
use tower::Service;

use super::request_body::RequestBody;
use crate::reuse::{CallFuture, Reuse};

/// A service that the edge can serve: it answers each request, because what is left of an error at the edge
/// would have no dialect. Connections share clones of it.
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

/// The stack of all connections. hyper-util's `TowerToHyperService` clones the service for each request: for
/// the layers of the gateway this costs 1,350 instructions, and more when the clone is dropped. Here a request
/// takes an instance for its call, so that a connection holds none.
pub(super) struct Stack<S>(Reuse<S>);

impl<S> Stack<S> {
    pub(super) fn new(service: S) -> Self {
        Self(Reuse::new(service))
    }
}

impl<S> Clone for Stack<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for Stack<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stack").field(&self.0).finish()
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
        self.0.call_instance(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::reuse::tests::Slow;

    #[tokio::test]
    async fn connections_share_an_instance_and_a_clone_is_made_while_it_is_not_ready() {
        let slow = Slow::new();
        let clones = slow.clones.clone();
        let stack = Stack::new(slow);
        assert_eq!(
            stack.clone().call(1).await,
            Ok(2),
            "it waits until a clone is ready"
        );
        assert_eq!(clones.load(Relaxed), 2, "an instance, and one that waits");
        assert_eq!(
            stack.clone().call(2).await,
            Ok(3),
            "by now the instance is ready"
        );
        assert_eq!(clones.load(Relaxed), 2);
    }
}
