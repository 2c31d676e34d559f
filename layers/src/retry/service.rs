//! The service.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::{Attempts, RetryLayer};
use crate::{BoxError, Failure, Replay, RouteMatch};

/// The first retry goes elsewhere and need not wait; from the second on, waits up to this, and
/// twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The kind of failure after which one more attempt is enough: each costs its whole time.
const FIRST_BYTE_TIMEOUT: &str = "first_byte_timeout";

/// The service of [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct Retry<S> {
    pub(super) inner: S,
    pub(super) policy: RetryLayer,
}

impl<S, B, R> Service<Request<B>> for Retry<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Replay + Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asking = Asking {
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            attempts: Attempts::first(),
            had_first_byte_timeout: false,
        };
        Box::pin(asking.ask(request))
    }
}

/// One request on its way through its attempts.
struct Asking<S> {
    inner: S,
    policy: RetryLayer,
    attempts: Attempts,
    had_first_byte_timeout: bool,
}

impl<S> Asking<S> {
    async fn ask<B, R>(mut self, mut request: Request<B>) -> Result<Response<R>, BoxError>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        B: Replay,
    {
        self.policy.budget.deposit();
        let is_replayable = is_replayable(&request);
        request.extensions_mut().insert(self.attempts.clone());
        loop {
            let again = match is_replayable && self.attempts.number() < self.policy.attempts.get() {
                true => copy(&request),
                false => None,
            };
            let answer = self.attempt(request).await;
            let Some((next, reason)) = again.zip(self.reason_to_retry(&answer)) else {
                return answer;
            };
            if !self.policy.budget.withdraw(Instant::now()) {
                return answer;
            }
            drop(answer);
            if let Some(observer) = &self.policy.observer {
                observer(reason);
            }
            wait_before(self.attempts.number() + 1).await;
            self.attempts.next();
            request = next;
        }
    }

    async fn attempt<B, R>(&mut self, request: Request<B>) -> Result<Response<R>, BoxError>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
    {
        poll_fn(|cx| self.inner.poll_ready(cx))
            .await
            .map_err(Into::into)?;
        self.inner.call(request).await.map_err(Into::into)
    }

    fn reason_to_retry<R>(
        &mut self,
        answer: &Result<Response<R>, BoxError>,
    ) -> Option<&'static str> {
        match answer {
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Some("status_503"),
            Ok(_) => None,
            Err(error) => {
                let failure = Failure::find(&**error).filter(|failure| failure.is_retryable())?;
                let kind = failure.kind();
                if kind == FIRST_BYTE_TIMEOUT
                    && std::mem::replace(&mut self.had_first_byte_timeout, true)
                {
                    return None;
                }
                Some(kind)
            }
        }
    }
}

/// Waits a random part of a time that doubles, so that clients that failed together do not come
/// back together.
async fn wait_before(attempt: u32) {
    let Some(doublings) = attempt.checked_sub(3) else {
        return;
    };
    let most = FIRST_WAIT * 2_u32.saturating_pow(doublings);
    sleep(most.min(LONGEST_WAIT).mul_f64(random_share())).await;
}

fn is_replayable<B>(request: &Request<B>) -> bool {
    let operation = RouteMatch::of(request.extensions()).and_then(RouteMatch::operation);
    operation.is_some_and(|operation| operation.is_replayable())
}

fn copy<B: Replay>(request: &Request<B>) -> Option<Request<B>> {
    let body = request.body().replay()?;
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Between 0 and 1; the keys of a hasher are random, which is all that is needed here.
fn random_share() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
