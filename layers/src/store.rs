//! What limits for each key have in common: the rule for requests without a key, the deadline for an
//! external store's response, and the rule for a store that does not answer.
//!
//! [`rate_limit`](crate::rate_limit) and [`token_limit`](crate::token_limit) keep their counts in
//! memory, or in a store that several processes share. A store that does not answer must not block
//! requests, so each call has a deadline and a rule for what happens after it.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use pin_project_lite::pin_project;

use crate::{Deadline, Fail, Retryable, Side};

/// The store failed, or did not answer in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limits cannot be looked up: {reason}")]
#[non_exhaustive]
pub struct StoreUnavailable {
    reason: String,
}

impl StoreUnavailable {
    /// `reason` is written for operators.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

impl Fail for StoreUnavailable {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "limits_unavailable"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

/// What happens to requests while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenUnavailable {
    /// Requests pass and are not counted.
    #[default]
    Admit,
    /// Requests are refused with [`StoreUnavailable`].
    Refuse,
}

/// What happens to requests without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WithoutKey {
    /// All of them together have one quota or budget, of the size that each key has by default.
    #[default]
    Share,
    /// They pass and are not counted.
    Admit,
    /// They are refused with [`NoLimitKey`].
    Refuse,
}

/// The request has no key by which it could be limited, and [`WithoutKey::Refuse`] is set.
///
/// The response is a 403: 401 asks for a credential, which only a layer that checks credentials can
/// do, and clients repeat a request after 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits apply to each client, and this request does not identify its client")]
pub struct NoLimitKey;

impl Fail for NoLimitKey {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::FORBIDDEN
    }
    fn kind(&self) -> &'static str {
        "no_limit_key"
    }
}

impl WithoutKey {
    /// The key to count, by what the key function returned: `None` in the inner option stands for all
    /// requests without a key. The outer `None` means that the request is not counted.
    pub(crate) fn settle<K>(self, key: Option<K>) -> Result<Option<Option<K>>, NoLimitKey> {
        match (key, self) {
            (Some(key), _) => Ok(Some(Some(key))),
            (None, Self::Share) => Ok(Some(None)),
            (None, Self::Admit) => Ok(None),
            (None, Self::Refuse) => Err(NoLimitKey),
        }
    }
}

/// The number of processes that divide the limits, because they have no common store, or because it
/// does not answer. Clones share the number, which can change at any time.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use llamatower_layers::store::Replicas;
///
/// let replicas = Replicas::default();
/// assert_eq!(replicas.get().get(), 1, "the whole limit");
/// replicas.clone().set(NonZeroU32::MIN.saturating_add(2));
/// assert_eq!(replicas.share(100), 33, "rounded down, so that the sum stays below the limit");
/// assert_eq!(replicas.share(2), 1, "at least 1");
/// ```
#[derive(Clone, Debug)]
pub struct Replicas(Arc<AtomicU32>);

impl Default for Replicas {
    fn default() -> Self {
        Self::new(NonZeroU32::MIN)
    }
}

impl Replicas {
    /// Begins with this number.
    pub fn new(number: NonZeroU32) -> Self {
        Self(Arc::new(AtomicU32::new(number.get())))
    }

    /// The current number.
    pub fn get(&self) -> NonZeroU32 {
        NonZeroU32::new(self.0.load(Ordering::Relaxed)).unwrap_or(NonZeroU32::MIN)
    }

    /// Changes the number for all clones. What was counted before still counts.
    pub fn set(&self, number: NonZeroU32) {
        self.0.store(number.get(), Ordering::Relaxed);
    }

    /// This process's part of a limit: rounded down, and at least 1.
    pub fn share(&self, limit: u64) -> u64 {
        (limit / u64::from(self.get().get())).max(1)
    }
}

/// The deadline for a store's response, and the rule for a store that does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StorePolicy {
    pub(crate) deadline: Duration,
    pub(crate) when_unavailable: WhenUnavailable,
}

impl StorePolicy {
    /// A store on the local network should answer in a few milliseconds.
    pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_millis(50);

    /// The result of a store call. `None` means that the store did not answer and the request
    /// passes.
    pub(crate) fn settle<T>(
        self,
        answer: Result<T, StoreUnavailable>,
    ) -> Result<Option<T>, StoreUnavailable> {
        match (answer, self.when_unavailable) {
            (Ok(answer), _) => Ok(Some(answer)),
            (Err(_), WhenUnavailable::Admit) => Ok(None),
            (Err(unavailable), WhenUnavailable::Refuse) => Err(unavailable),
        }
    }
}

impl Default for StorePolicy {
    fn default() -> Self {
        Self {
            deadline: Self::DEFAULT_DEADLINE,
            when_unavailable: WhenUnavailable::default(),
        }
    }
}

pin_project! {
    /// A call to a store, with a deadline. The output is `None` if the store did not answer and the
    /// request passes.
    #[derive(Debug)]
    pub(crate) struct StoreCall<W> {
        #[pin]
        answer: W,
        policy: StorePolicy,
        // Armed only when the store is not ready at once; the in-memory store always is.
        timer: Deadline,
    }
}

impl<W> StoreCall<W> {
    pub(crate) fn new(answer: W, policy: StorePolicy) -> Self {
        Self {
            answer,
            policy,
            timer: Deadline::default(),
        }
    }
}

impl<W, T> Future for StoreCall<W>
where
    W: Future<Output = Result<T, StoreUnavailable>>,
{
    type Output = Result<Option<T>, StoreUnavailable>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = this.policy.deadline;
        let answer = match this.answer.poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                if !this.timer.is_armed() {
                    this.timer.arm_after(deadline);
                }
                ready!(this.timer.poll(cx));
                let late = format!("no response from the store within {deadline:?}");
                Err(StoreUnavailable::new(late))
            }
        };
        Poll::Ready(this.policy.settle(answer))
    }
}
