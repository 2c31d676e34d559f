//! Requests with wrong keys, counted by the address they came from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The most addresses that are counted at the same time; about 1 MB. Requests from further addresses
/// are refused without a count.
const MOST_ADDRESSES: usize = 10_000;

/// How often all addresses are looked through for those whose window has ended, while there is no
/// room for a new one.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

/// Why a request's key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailedKey {
    /// There is no such key.
    Unknown,
    /// It has expired.
    Expired,
    /// There is a credential, but none that could be a key; or there are several different ones.
    Malformed,
}

impl FailedKey {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Expired, Self::Malformed];

    /// A fixed name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Malformed => "malformed",
        }
    }
}

/// Counts failures by address, in a window that begins with the first one.
#[derive(Debug)]
pub(super) struct Failures {
    most: NonZeroU32,
    window: Duration,
    by_address: HashMap<IpAddr, Counted>,
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    since: Instant,
    number: u32,
}

impl Failures {
    pub(super) fn new(most: NonZeroU32, window: Duration) -> Self {
        Self {
            most,
            window,
            by_address: HashMap::new(),
            swept: None,
        }
    }

    /// Counts a failure. If there were too many, returns the time until the window ends.
    pub(super) fn count(&mut self, address: IpAddr, now: Instant) -> Option<Duration> {
        let address = network(address);
        if !self.by_address.contains_key(&address) && !self.make_room(now) {
            return None;
        }
        let counted = self.by_address.entry(address).or_insert(Counted {
            since: now,
            number: 0,
        });
        if now.duration_since(counted.since) >= self.window {
            *counted = Counted {
                since: now,
                number: 0,
            };
        }
        counted.number = counted.number.saturating_add(1);
        let rest = self
            .window
            .saturating_sub(now.duration_since(counted.since));
        (counted.number > self.most.get()).then_some(rest)
    }

    /// Whether there is room for a new address.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.by_address.len() < MOST_ADDRESSES {
            return true;
        }
        let swept = self.swept;
        if swept.is_some_and(|swept| now.duration_since(swept) < BETWEEN_SWEEPS) {
            return false;
        }
        self.swept = Some(now);
        let window = self.window;
        self.by_address
            .retain(|_, counted| now.duration_since(counted.since) < window);
        self.by_address.len() < MOST_ADDRESSES
    }
}

/// The address, or for IPv6 its /64, because a client usually has a whole one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn failures(most: u32) -> Failures {
        Failures::new(NonZeroU32::new(most).expect("above 0"), WINDOW)
    }

    #[test]
    fn failures_above_the_limit_are_told_until_the_window_ends() {
        let (mut failures, start) = (failures(2), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(failures.count(one, at(0)), None);
        assert_eq!(failures.count(one, at(1)), None);
        assert_eq!(failures.count(one, at(20)), Some(Duration::from_secs(40)));
        assert_eq!(failures.count(other, at(20)), None);
        assert_eq!(failures.count(one, at(60)), None, "a new window");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_count_together() {
        let (mut failures, now) = (failures(1), Instant::now());
        let address = |text: &str| text.parse().expect("an address");
        assert_eq!(failures.count(address("2001:db8::1"), now), None);
        assert!(failures.count(address("2001:db8::2"), now).is_some());
        assert_eq!(failures.count(address("2001:db8:0:1::1"), now), None);
        assert_eq!(failures.count(address("10.0.0.1"), now), None);
        assert!(failures.count(address("::ffff:10.0.0.1"), now).is_some());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let (mut failures, start) = (failures(1), Instant::now());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..20_000 {
            failures.count(address(number), start);
        }
        assert_eq!(failures.by_address.len(), MOST_ADDRESSES);
        assert!(failures.count(address(0), start).is_some());
        failures.count(address(30_000), start + WINDOW);
        assert_eq!(failures.by_address.len(), 1);
    }
}
