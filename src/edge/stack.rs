//! The stack, as hyper calls it.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::service::Service as HyperService;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

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
    type Future = StackFuture<S, R>;

    fn call(&self, request: R) -> Self::Future {
        let mut service = self.0.borrow_mut();
        let at_once = &mut Context::from_waker(Waker::noop());
        match service.poll_ready(at_once) {
            Poll::Ready(Ok(())) => StackFuture::Called {
                future: service.call(request),
            },
            Poll::Ready(Err(_)) | Poll::Pending => StackFuture::Waiting {
                future: Box::pin(service.clone().oneshot(request)),
            },
        }
    }
}

pin_project! {
    /// The future of [`Stack`].
    #[project = StackProjection]
    pub(super) enum StackFuture<S: Service<R>, R> {
        Called { #[pin] future: S::Future },
        Waiting { future: Pin<Box<Oneshot<S, R>>> },
    }
}

impl<S: Service<R>, R> Future for StackFuture<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            StackProjection::Called { future } => future.poll(cx),
            StackProjection::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Not ready when it is polled for the first time; counts its clones.
    struct Slow {
        was_polled: bool,
        clones: Arc<AtomicUsize>,
    }

    impl Clone for Slow {
        fn clone(&self) -> Self {
            self.clones.fetch_add(1, Relaxed);
            Self {
                was_polled: false,
                clones: self.clones.clone(),
            }
        }
    }

    impl Service<u32> for Slow {
        type Response = u32;
        type Error = Infallible;
        type Future = Ready<Result<u32, Infallible>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            if std::mem::replace(&mut self.was_polled, true) {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        fn call(&mut self, request: u32) -> Self::Future {
            assert!(self.was_polled, "called before it was ready");
            ready(Ok(request + 1))
        }
    }

    #[tokio::test]
    async fn only_a_service_that_is_not_ready_is_cloned() {
        let clones = Arc::new(AtomicUsize::new(0));
        let stack = Stack::new(Slow {
            was_polled: false,
            clones: clones.clone(),
        });
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
