//! The service.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::backoff::Next;
use super::drain::drain;
use super::layer::{Policy, Replayable};
use super::{Attempts, Decision, RetryEvent, RetryFuture, RetryOptions};
use crate::classify::classify;
use crate::service::accessors;
use crate::shared::{Shared, record_wait};
use crate::{BoxError, ErrorCause, Failure, Replay, Retryable};

/// The service of [`RetryLayer`](super::RetryLayer).
#[derive(Clone, Debug)]
pub struct RetryService<S> {
    pub(super) inner: S,
    pub(super) policy: Arc<Policy>,
}

accessors!([S] RetryService<S>, super::RetryLayer);

impl<S, B, R> Service<Request<B>> for RetryService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Replay + Send + 'static,
    R: Body + Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = RetryFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(classify)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let policy = self.policy.clone();
        policy.budget.deposit();
        let (replayable, attempts_limit) = rules(&policy, &request);
        // Calls the instance whose readiness was polled.
        let fresh = self.inner.clone();
        let mut retries = RetryLoop {
            inner: std::mem::replace(&mut self.inner, fresh),
            policy,
            attempts: Attempts::first(),
            attempts_limit,
            replayable,
            has_used_once: false,
        };
        let next = retries.copy(&mut request);
        let answer = retries.inner.call(request);
        RetryFuture::new(retries, next, answer)
    }
}

/// Whether the request may be sent twice, and the largest number of attempts.
fn rules<B>(policy: &Policy, request: &Request<B>) -> (Replayable, NonZeroU32) {
    let options = RetryOptions::of(request.extensions());
    let replayable = match options.and_then(|options| options.is_replayable) {
        Some(is_replayable) => is_replayable.into(),
        None => policy.is_replayable(request.method(), request.extensions()),
    };
    let attempts = options.and_then(|options| options.attempts);
    (replayable, attempts.unwrap_or(policy.attempts))
}

/// A request and the state of its attempts.
pub(super) struct RetryLoop<S> {
    inner: S,
    policy: Arc<Policy>,
    attempts: Attempts,
    attempts_limit: NonZeroU32,
    replayable: Replayable,
    has_used_once: bool,
}

/// Why an attempt failed.
struct Cause {
    reason: &'static str,
    retry_after: Option<Duration>,
    remedy: Remedy,
}

/// Which retry may help.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remedy {
    Anywhere,
    OnlyElsewhere,
    /// The error is of an unknown kind.
    Unknown,
}

impl<S> RetryLoop<S> {
    /// A copy of the request for the next attempt, if there may be one. Call it before the request
    /// is sent.
    fn copy<B: Replay>(&self, request: &mut Request<B>) -> Option<Request<B>> {
        let copied = match self.replayable {
            Replayable::Yes if !self.is_last() => copy(request),
            _ => None,
        };
        let attempts = self.attempts.clone();
        Shared::of_mut(request.extensions_mut()).attempts = Some(attempts);
        copied
    }

    fn is_last(&self) -> bool {
        self.attempts.number() >= self.attempts_limit.get()
    }

    /// Whether an attempt has succeeded, as nearly all do.
    pub(super) fn is_final<R, E>(&self, answer: &Result<Response<R>, E>) -> bool {
        !answer
            .as_ref()
            .map_or(true, |answer| self.is_listed(answer))
    }

    /// Returns this response, or that of a later attempt.
    pub(super) async fn go_on<B, R>(
        mut self,
        mut answer: Result<Response<R>, BoxError>,
        mut next: Option<Request<B>>,
    ) -> Result<Response<R>, BoxError>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        B: Replay,
        R: Body,
    {
        let mut before: Option<BoxError> = None;
        loop {
            let Some(cause) = self.cause_to_retry(&answer) else {
                return answer;
            };
            let decision = self.decide(&cause, next.is_some());
            self.report(&cause, decision);
            let (Some(mut request), Decision::Retry { after }) = (next, decision) else {
                // A refusal because of earlier failures, such as an open breaker's, tells less than
                // the failure itself.
                return match (answer, before) {
                    (Err(_), Some(before)) if cause.remedy == Remedy::OnlyElsewhere => Err(before),
                    (answer, _) => answer,
                };
            };
            let since = Instant::now();
            match answer {
                Ok(answer) => drain(answer.into_body()).await,
                Err(error) => before = Some(error),
            }
            if !after.is_zero() {
                sleep(after).await;
            }
            record_wait(request.extensions(), since.elapsed());
            self.attempts.next();
            next = self.copy(&mut request);
            // Final, as before the first attempt: by tower's contract, a service whose readiness
            // failed must not be used again.
            poll_fn(|cx| self.inner.poll_ready(cx))
                .await
                .map_err(classify)?;
            answer = self.inner.call(request).await.map_err(classify);
        }
    }

    fn cause_to_retry<R>(&mut self, answer: &Result<Response<R>, BoxError>) -> Option<Cause> {
        let error = match answer {
            Ok(answer) => return self.listed_status(answer),
            Err(error) => error,
        };
        let Some(failure) = Failure::find(&**error) else {
            return Some(Cause {
                reason: "unclassified",
                retry_after: None,
                remedy: Remedy::Unknown,
            });
        };
        let remedy = match failure.retryable() {
            Retryable::No => return None,
            Retryable::Once if std::mem::replace(&mut self.has_used_once, true) => return None,
            Retryable::Once | Retryable::Yes => Remedy::Anywhere,
            Retryable::Elsewhere => Remedy::OnlyElsewhere,
        };
        Some(Cause {
            reason: failure.kind(),
            retry_after: failure.retry_after(),
            remedy,
        })
    }

    /// Whether a response has a status for a retry, and the server is its cause.
    fn is_listed<R>(&self, answer: &Response<R>) -> bool {
        self.policy.statuses.contains(&answer.status())
            && ErrorCause::of(answer.extensions()).is_none()
    }

    fn listed_status<R>(&self, answer: &Response<R>) -> Option<Cause> {
        self.is_listed(answer).then(|| Cause {
            reason: status_reason(answer.status()),
            retry_after: retry_after(answer),
            remedy: match self.policy.statuses_only_elsewhere {
                true => Remedy::OnlyElsewhere,
                false => Remedy::Anywhere,
            },
        })
    }

    /// Takes a retry from the budget, if there will be one.
    fn decide(&self, cause: &Cause, has_copy: bool) -> Decision {
        if cause.remedy == Remedy::Unknown {
            if self.replayable == Replayable::Yes && !self.is_last() {
                self.warn_unclassified();
            }
            return Decision::Unclassified;
        }
        if self.is_last() {
            return Decision::AttemptsUsedUp;
        }
        if self.replayable != Replayable::Yes {
            self.warn_without_route(cause);
            return Decision::RequestNotReplayable;
        }
        if !has_copy {
            return Decision::BodyNotReplayable;
        }
        let next = match self.attempts.can_go_elsewhere() {
            true => Next::Elsewhere,
            false if cause.remedy == Remedy::OnlyElsewhere => return Decision::NoOtherBackend,
            false => Next::Same {
                retry_after: cause.retry_after,
            },
        };
        let retry = self.attempts.number();
        let Some(after) = self.policy.backoff.wait(retry, next, fastrand::f64()) else {
            return Decision::TooLong;
        };
        match self.policy.budget.withdraw(Instant::now()) {
            true => Decision::Retry { after },
            false => Decision::BudgetUsedUp,
        }
    }

    /// Warns once in a debug build if a failed request is not repeated only because nothing tells
    /// that it may be: it is easy not to notice.
    fn warn_without_route(&self, cause: &Cause) {
        let warned = &self.policy.warned;
        match self.replayable {
            Replayable::NoByMethod if cfg!(debug_assertions) => warned.no_route.call_once(|| {
                tracing::warn!(
                    reason = cause.reason,
                    "a failed request was not retried: it has no route and its method is not safe; \
                     place EndpointLayer outside of RetryLayer, or use RetryLayer::with_replayable"
                );
            }),
            Replayable::NotInTable if cfg!(debug_assertions) => warned.not_in_table.call_once(|| {
                tracing::warn!(
                    reason = cause.reason,
                    "a failed request was not retried: its path is not in the EndpointTable; add it \
                     with EndpointTable::route, or refuse such paths with RequireEndpointLayer"
                );
            }),
            _ => {}
        }
    }

    /// Warns once in a debug build of an error whose meaning is not known.
    fn warn_unclassified(&self) {
        if cfg!(debug_assertions) {
            self.policy.warned.unclassified.call_once(|| {
                tracing::warn!(
                    "a request was not retried: its error is of an unknown kind; turn on the feature \
                     `hyper-util` or `reqwest` for the errors of these clients, or put a ClassifyLayer \
                     around the client"
                );
            });
        }
    }

    fn report(&self, cause: &Cause, decision: Decision) {
        if let Some(observer) = &self.policy.observer {
            observer(&RetryEvent {
                reason: cause.reason,
                attempt: self.attempts.number(),
                decision,
            });
        }
    }
}

/// A low-cardinality name for metrics.
fn status_reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        408 => "status_408",
        429 => "status_429",
        500 => "status_500",
        502 => "status_502",
        503 => "status_503",
        504 => "status_504",
        _ => "status_other",
    }
}

/// The seconds in `Retry-After`. The other form, a date (RFC 9110 10.2.3), is not sent by LLM
/// servers.
fn retry_after<R>(answer: &Response<R>) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
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
