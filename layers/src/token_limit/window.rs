//! Calendar windows.

use std::fmt;
use std::num::NonZeroU64;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A calendar period after which counts reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// From one full minute to the next.
    Minute,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// A number of tokens for each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    tokens: NonZeroU64,
    window: Window,
}

/// The start and the end of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
}

impl Window {
    pub(crate) const ALL: [Self; 3] = [Self::Minute, Self::Day, Self::Month];

    /// The name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The name in the `RateLimit` headers.
    pub(super) fn field_name(self) -> &'static str {
        match self {
            Self::Minute => "tokens-minute",
            Self::Day => "tokens-day",
            Self::Month => "tokens-month",
        }
    }

    /// The window that contains `now`.
    pub(crate) fn span(self, now: Timestamp, zone: &TimeZone) -> Span {
        self.checked_span(now, zone).unwrap_or(Span {
            // At the limits of `Timestamp`, a window has no bounds.
            start: Timestamp::MIN,
            end: Timestamp::MAX,
        })
    }

    fn checked_span(self, now: Timestamp, zone: &TimeZone) -> Result<Span, jiff::Error> {
        if self == Self::Minute {
            let start = now.as_second().div_euclid(60) * 60;
            return Ok(Span {
                start: Timestamp::from_second(start)?,
                end: Timestamp::from_second(start + 60)?,
            });
        }
        let today = zone.to_datetime(now).date();
        let (first, next) = match self {
            Self::Month => (today.first_of_month(), today.last_of_month().tomorrow()?),
            _ => (today, today.tomorrow()?),
        };
        // A midnight that daylight saving skips counts as the first time after it.
        let begin = |date: jiff::civil::Date| {
            let midnight =
                zone.to_ambiguous_zoned_datetime(date.to_datetime(jiff::civil::Time::midnight()));
            Ok::<_, jiff::Error>(midnight.compatible()?.timestamp())
        };
        Ok(Span {
            start: begin(first)?,
            end: begin(next)?,
        })
    }
}

impl Span {
    pub(super) fn contains(&self, now: Timestamp) -> bool {
        (self.start..self.end).contains(&now)
    }

    pub(crate) fn left(&self, now: Timestamp) -> std::time::Duration {
        let left: SignedDuration = self.end.duration_since(now);
        std::time::Duration::try_from(left).unwrap_or_default()
    }
}

impl Budget {
    /// A budget of `tokens` for each `window`.
    pub fn new(tokens: NonZeroU64, window: Window) -> Self {
        Self { tokens, window }
    }

    /// The tokens for each window.
    pub fn tokens(&self) -> u64 {
        self.tokens.get()
    }

    /// The window.
    pub fn window(&self) -> Window {
        self.window
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens per {}", self.tokens, self.window.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::tz::Offset;

    use super::*;

    fn span(window: Window, now: &str, zone: &TimeZone) -> [String; 2] {
        let span = window.span(now.parse().unwrap(), zone);
        [span.start, span.end].map(|at| at.to_string())
    }

    #[test]
    fn windows_follow_the_calendar() {
        let now = "2028-02-29T23:59:59.5Z";
        for (window, start, end) in [
            (
                Window::Minute,
                "2028-02-29T23:59:00Z",
                "2028-03-01T00:00:00Z",
            ),
            (Window::Day, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (
                Window::Month,
                "2028-02-01T00:00:00Z",
                "2028-03-01T00:00:00Z",
            ),
        ] {
            assert_eq!(span(window, now, &TimeZone::UTC), [start, end]);
        }
    }

    #[test]
    fn a_day_starts_at_midnight_of_the_time_zone() {
        let zone = TimeZone::fixed(Offset::constant(2));
        let expected = ["2027-12-31T22:00:00Z", "2028-01-31T22:00:00Z"];
        assert_eq!(span(Window::Month, "2027-12-31T22:30:00Z", &zone), expected);
    }

    #[test]
    fn a_day_of_23_hours_is_one_window() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let expected = ["2028-03-25T23:00:00Z", "2028-03-26T22:00:00Z"];
        assert_eq!(span(Window::Day, "2028-03-26T12:00:00Z", &zone), expected);
    }

    #[test]
    fn the_limits_of_timestamps_do_not_panic() {
        for now in [Timestamp::MIN, Timestamp::MAX] {
            for window in Window::ALL {
                assert!(window.span(now, &TimeZone::UTC).start <= now);
            }
        }
    }
}
