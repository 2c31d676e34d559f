//! The usual time that a slot of a class is held.

use std::time::Duration;

/// So many of the last times count.
const RECENT: usize = 16;
/// With fewer times, one slow response among quick ones would decide.
const ENOUGH: usize = 4;

/// The times that slots of a class were held, of the last requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServiceTime {
    /// In seconds. The oldest is replaced first.
    recent: [f64; RECENT],
    /// The number of times so far.
    count: usize,
}

impl ServiceTime {
    pub(super) fn add(&mut self, held: Duration) {
        self.recent[self.count % RECENT] = held.as_secs_f64();
        self.count += 1;
    }

    /// The mean of the recent times, in seconds. The longest of them counts as the second longest:
    /// one slow response of another kind does not change what the others take.
    pub(super) fn mean(&self) -> Option<f64> {
        let recent = &self.recent[..self.count.min(RECENT)];
        let (mut longest, mut second, mut sum) = (0.0, 0.0, 0.0);
        for &time in recent {
            sum += time;
            if time > longest {
                (longest, second) = (time, longest);
            } else if time > second {
                second = time;
            }
        }
        match recent.len() {
            0 => None,
            1 => Some(longest),
            times => Some((sum - longest + second) / times as f64),
        }
    }

    /// The expected time, in seconds. An assumed time fills in for those that are not known yet.
    pub(super) fn expected(&self, assumed: Option<Duration>) -> Option<f64> {
        let assumed = assumed.map(|time| time.as_secs_f64());
        match (self.mean(), assumed) {
            (Some(mean), Some(assumed)) if !self.is_known() => {
                let known = self.count as f64 / ENOUGH as f64;
                Some(known * mean + (1.0 - known) * assumed)
            }
            (mean, assumed) => mean.or(assumed),
        }
    }

    /// Whether enough times are known to refuse a request by them.
    pub(super) fn is_known(&self) -> bool {
        self.count >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: &[f64]) -> ServiceTime {
        let mut service = ServiceTime::default();
        for time in seconds {
            service.add(Duration::from_secs_f64(*time));
        }
        service
    }

    #[test]
    fn one_slow_response_does_not_change_the_mean() {
        for times in [
            &[15.0, 0.2, 0.2, 0.2][..],
            &[0.2, 15.0],
            &[0.2, 0.2, 0.2, 0.2, 15.0],
            &[0.2],
        ] {
            let mean = after(times).mean().unwrap_or_default();
            assert!((mean - 0.2).abs() < 1e-9, "{times:?}: {mean}");
        }
        assert_eq!(after(&[]).mean(), None);
        assert_eq!(after(&[4.0, 12.0, 8.0, 0.0]).mean(), Some(5.0));
    }

    #[test]
    fn old_times_are_forgotten() {
        let mut times = vec![40.0; 20];
        times.extend([2.0; RECENT]);
        assert_eq!(after(&times).mean(), Some(2.0));
    }

    #[test]
    fn an_assumed_time_has_the_weight_of_the_times_that_are_not_known_yet() {
        let assumed = Some(Duration::from_secs(10));
        assert_eq!(after(&[]).expected(assumed), Some(10.0));
        assert_eq!(after(&[2.0]).expected(assumed), Some(8.0));
        assert_eq!(after(&[2.0; ENOUGH]).expected(assumed), Some(2.0));
        assert_eq!(after(&[2.0]).expected(None), Some(2.0));
        assert!(!after(&[2.0; ENOUGH - 1]).is_known());
    }
}
