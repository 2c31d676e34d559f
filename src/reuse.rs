//! Instances of a service that requests share.
//!
//! A request that has to wait before it is called keeps a service for itself, and tower's way to that is
//! a clone. For many layers a clone and its drop take over a thousand instructions, although an instance
//! is free again when `call` returns: the future does not borrow it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

/// A service whose clones share instances of it. A call takes one and gives it back at once, so there are
/// as many as threads that call at the same moment.
pub struct Reuse<S>(Arc<Mutex<Instances<S>>>);

struct Instances<S> {
    original: S,
    /// Boxed, because they are moved for each request.
    free: Vec<Box<S>>,
}

impl<S> Reuse<S> {
    /// Shares instances of `service`.
    pub fn new(service: S) -> Self {
        let instances = Instances {
            original: service,
            free: Vec::new(),
        };
        Self(Arc::new(Mutex::new(instances)))
    }

    fn instances(&self) -> MutexGuard<'_, Instances<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Clone> Reuse<S> {
    /// An instance for the caller alone.
    pub fn own_instance(&self) -> S {
        self.instances().original.clone()
    }

    fn take(&self) -> Box<S> {
        let mut instances = self.instances();
        let free = instances.free.pop();
        free.unwrap_or_else(|| Box::new(instances.original.clone()))
    }

    /// Calls an instance.
    pub(crate) fn call_instance<R>(&self, request: R) -> CallFuture<S, R>
    where
        S: Service<R>,
    {
        let mut service = self.take();
        let future = CallFuture::of(&mut *service, request);
        self.instances().free.push(service);
        future
    }
}

impl<S> Clone for Reuse<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for Reuse<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reuse").finish_non_exhaustive()
    }
}

impl<S, R> Service<R> for Reuse<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallFuture<S, R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.call_instance(request)
    }
}

pin_project! {
    /// A call of a service that was ready at once, or of a clone that is not ready yet.
    pub struct CallFuture<S: Service<R>, R> {
        #[pin]
        state: CallState<S, R>,
    }
}

pin_project! {
    #[project = CallProjection]
    enum CallState<S: Service<R>, R> {
        Called { #[pin] future: S::Future },
        Waiting { future: Pin<Box<Oneshot<S, R>>> },
    }
}

impl<S: Service<R> + Clone, R> CallFuture<S, R> {
    /// Calls `service`, or a clone if it is not ready at once.
    fn of(service: &mut S, request: R) -> Self {
        let at_once = &mut Context::from_waker(Waker::noop());
        let state = match service.poll_ready(at_once) {
            Poll::Ready(Ok(())) => CallState::Called {
                future: service.call(request),
            },
            Poll::Ready(Err(_)) | Poll::Pending => CallState::Waiting {
                future: Box::pin(service.clone().oneshot(request)),
            },
        };
        Self { state }
    }
}

impl<S: Service<R>, R> Future for CallFuture<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            CallProjection::Called { future } => future.poll(cx),
            CallProjection::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Not ready when it is polled for the first time; counts its clones.
    pub(crate) struct Slow {
        was_polled: bool,
        pub(crate) clones: Arc<AtomicUsize>,
    }

    impl Slow {
        pub(crate) fn new() -> Self {
            Self {
                was_polled: false,
                clones: Arc::default(),
            }
        }
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
    async fn a_service_is_cloned_for_the_first_call_and_while_it_is_not_ready() {
        let slow = Slow::new();
        let clones = slow.clones.clone();
        let service = Reuse::new(slow);
        assert_eq!(service.clone().call(1).await, Ok(2));
        assert_eq!(clones.load(Relaxed), 2, "an instance, and one that waits");
        for request in 2..5 {
            let answer = service.clone().call(request).await;
            assert_eq!(answer, Ok(request + 1), "by now the instance is ready");
        }
        assert_eq!(clones.load(Relaxed), 2);
    }
}
