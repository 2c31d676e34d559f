//! Quotas.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderValue;

use crate::ratelimit_fields;

/// A number of requests per period, and how many of them may come at once.
///
/// The requests of a period are not available at its beginning: one becomes available every `per /
/// requests`, up to `burst` (GCRA, a leaky bucket). So any span of time `t` has at most `burst + t
/// * requests / per` requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    requests: NonZeroU32,
    per: Duration,
    burst: NonZeroU32,
}

/// The numbers do not form a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidQuota {
    /// The period is zero.
    #[error("the period of a quota must be longer than zero")]
    ZeroPeriod,
    /// The period, or the time to refill the whole burst, is above [`Quota::LONGEST`].
    #[error("a quota must refill within 366 days: use a shorter period or a smaller burst")]
    TooLong,
}

impl Quota {
    /// The longest period, and the longest time to refill a burst.
    pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

    /// The quota's value in `RateLimit-Policy`, with this name. The window there is in whole
    /// seconds; a period with a fraction is omitted.
    pub(super) fn policy(&self, name: &str) -> Option<HeaderValue> {
        let window = (self.per.subsec_nanos() == 0).then_some(self.per.as_secs());
        ratelimit_fields::policy(name, u64::from(self.requests.get()), window)
    }

    /// `requests` per period `per`, all of which may come at once.
    ///
    /// # Errors
    /// The period is zero or longer than [`Quota::LONGEST`].
    pub fn new(requests: NonZeroU32, per: Duration) -> Result<Self, InvalidQuota> {
        let quota = Self {
            requests,
            per,
            burst: requests,
        };
        quota.checked()
    }

    /// `requests` per minute, all of which may come at once.
    pub const fn per_minute(requests: NonZeroU32) -> Self {
        Self {
            requests,
            per: Duration::from_secs(60),
            burst: requests,
        }
    }

    /// Sets how many requests may come at once after a long enough pause.
    ///
    /// # Errors
    /// Refilling the burst takes longer than [`Quota::LONGEST`].
    pub fn with_burst(self, burst: NonZeroU32) -> Result<Self, InvalidQuota> {
        Self { burst, ..self }.checked()
    }

    fn checked(self) -> Result<Self, InvalidQuota> {
        let refill = (self.per / self.requests.get()).checked_mul(self.burst.get());
        if self.per.is_zero() {
            Err(InvalidQuota::ZeroPeriod)
        } else if self.per > Self::LONGEST || refill.is_none_or(|refill| refill > Self::LONGEST) {
            Err(InvalidQuota::TooLong)
        } else {
            Ok(self)
        }
    }

    /// The number of requests per period.
    pub fn requests(&self) -> NonZeroU32 {
        self.requests
    }

    /// The period.
    pub fn per(&self) -> Duration {
        self.per
    }

    /// How many requests may come at once.
    pub fn burst(&self) -> NonZeroU32 {
        self.burst
    }

    /// The time to refill one request; rounded up, so that the quota is never exceeded by a
    /// fraction.
    pub(crate) fn interval(&self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(self.requests.get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The time to refill `missing` requests.
    pub(super) fn refill(&self, missing: u32) -> Duration {
        self.interval() * missing
    }
}

impl From<Quota> for governor::Quota {
    fn from(quota: Quota) -> Self {
        // `None` means zero, which the constructors exclude.
        governor::Quota::with_period(quota.interval())
            .unwrap_or(governor::Quota::per_minute(quota.requests))
            .allow_burst(quota.burst)
    }
}

/// As in `60 requests in 60 s`.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, per, .. } = self;
        let plural = if requests.get() == 1 { "" } else { "s" };
        write!(f, "{requests} request{plural} in {} s", per.as_secs_f64())
    }
}
