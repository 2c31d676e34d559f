//! How much is allowed, in this crate's own words.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderValue;

use crate::ratelimit_fields;

/// A number of requests in a period, and how many of them may come at once.
///
/// The requests of a period are not given out at its beginning: one comes back every
/// `per / requests`, up to `burst` (GCRA, a leaky bucket). So any span of time `t` sees at most
/// `burst + t * requests / per` requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    requests: NonZeroU32,
    per: Duration,
    burst: NonZeroU32,
}

/// The numbers make no quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidQuota {
    /// The period is zero.
    #[error("the period of a quota must be longer than zero")]
    ZeroPeriod,
    /// The period, or the time in which the whole burst comes back, is above
    /// [`Quota::LONGEST`].
    #[error("a quota must be whole again within 366 days: shorten its period or its burst")]
    TooLong,
}

impl Quota {
    /// The longest period, and the longest time in which a burst may come back.
    pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

    /// How the quota stands in `RateLimit-Policy` under this name. The window there is in whole
    /// seconds, so a period that is not has none.
    pub(super) fn policy(&self, name: &str) -> Option<HeaderValue> {
        let window = (self.per.subsec_nanos() == 0).then_some(self.per.as_secs());
        ratelimit_fields::policy(name, u64::from(self.requests.get()), window)
    }

    /// `requests` in each period `per`, all of which may come at once.
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

    /// `requests` in a minute, all of which may come at once.
    pub const fn per_minute(requests: NonZeroU32) -> Self {
        Self {
            requests,
            per: Duration::from_secs(60),
            burst: requests,
        }
    }

    /// How many requests may come at once, after a pause that was long enough.
    ///
    /// # Errors
    /// The burst takes longer than [`Quota::LONGEST`] to come back.
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

    /// The requests of a period.
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

    /// After how long one request comes back; rounded up, so that the quota is never exceeded
    /// by a fraction.
    pub(super) fn interval(&self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(self.requests.get().into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// After how long `missing` requests have come back.
    pub(super) fn refill(&self, missing: u32) -> Duration {
        self.interval() * missing
    }
}

impl From<Quota> for governor::Quota {
    fn from(quota: Quota) -> Self {
        // `None` is for a zero, which the constructors rule out.
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
