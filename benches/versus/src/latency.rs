//! How long something took, seen while nothing else took the cores.
//!
//! Slices of time in which it did are left out; a proxy's own pauses stay in.

use std::time::{Duration, Instant};

use crate::{cores::Lost, report::percentile};

/// Length of a slice.
const SLICE: Duration = Duration::from_millis(50);

/// A slice is quiet in which a core has lost no more.
const QUIET: Duration = Duration::from_micros(100);

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latency {
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// Of how many of the times, from 0 to 1.
    pub(crate) counted: f64,
}

/// Takes times in nanoseconds as they come.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Asked at the end of each slice.
    lost: Lost,
    end: Instant,
    slices: Vec<Slice>,
    open: Vec<u64>,
}

#[derive(Debug)]
struct Slice {
    times: Vec<u64>,
    lost: Duration,
}

impl Recorder {
    pub(crate) fn start(lost: Lost) -> Self {
        Self {
            lost,
            end: Instant::now() + SLICE,
            slices: Vec::new(),
            open: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, now: Instant, nanoseconds: u64) {
        if now >= self.end {
            self.close();
            self.end = now + SLICE;
        }
        self.open.push(nanoseconds);
    }

    fn close(&mut self) {
        self.slices.push(Slice {
            times: std::mem::take(&mut self.open),
            lost: self.lost.take(),
        });
    }

    pub(crate) fn finish(mut self) -> Latency {
        self.close();
        Latency::of(&self.slices)
    }
}

impl Latency {
    /// Of all times in quiet slices; of all there are, if none was quiet. What was late in a slice
    /// may come in the next, so that one has to follow a quiet one.
    fn of(slices: &[Slice]) -> Self {
        let mut times = Vec::new();
        let mut follows_quiet = true;
        for slice in slices {
            let is_quiet = slice.lost <= QUIET;
            if follows_quiet && is_quiet {
                times.extend(&slice.times);
            }
            follows_quiet = is_quiet;
        }
        let all = || slices.iter().flat_map(|slice| &slice.times);
        if times.is_empty() {
            times.extend(all());
        }
        times.sort_unstable();
        let microseconds = |share| percentile(&times, share) as f64 / 1e3;
        Self {
            median: microseconds(0.5),
            p99: microseconds(0.99),
            counted: times.len() as f64 / all().count().max(1) as f64,
        }
    }
}

impl std::ops::Sub for Latency {
    type Output = Self;

    fn sub(self, base: Self) -> Self {
        Self {
            median: self.median - base.median,
            p99: self.p99 - base.p99,
            counted: self.counted,
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { median, p99, .. } = self;
        write!(f, "{median:.0} / {p99:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(lost: u64, times: &[u64]) -> Slice {
        Slice {
            times: times.to_vec(),
            lost: Duration::from_micros(lost),
        }
    }

    #[test]
    fn what_came_while_a_core_was_taken_away_does_not_count_nor_what_that_made_late() {
        let slices = [
            slice(0, &[10_000, 30_000]),
            slice(900, &[500_000]),
            slice(0, &[800_000]),
            slice(100, &[20_000]),
        ];
        let latency = Latency::of(&slices);
        assert_eq!((latency.median, latency.p99), (20.0, 30.0));
    }

    #[test]
    fn the_pauses_of_a_proxy_count() {
        let slices = [slice(0, &[10_000]), slice(0, &[5_000_000, 4_000_000])];
        assert_eq!(Latency::of(&slices).p99, 5_000.0);
    }

    #[test]
    fn on_a_machine_that_is_never_quiet_all_times_count() {
        let slices = [slice(900, &[3_000, 1_000, 2_000]), slice(900, &[])];
        let latency = Latency::of(&slices);
        assert_eq!((latency.median, latency.p99), (2.0, 3.0));
        assert_eq!(Latency::of(&[]), Latency::default());
    }

    #[test]
    fn a_slice_has_its_length() {
        let mut recorder = Recorder::start(Lost::on_own());
        let begin = recorder.end;
        recorder.push(begin - SLICE, 1);
        recorder.push(begin, 2);
        recorder.push(begin + SLICE / 2, 3);
        recorder.push(begin + SLICE, 4);
        recorder.close();
        let times: Vec<_> = recorder
            .slices
            .iter()
            .map(|one| one.times.clone())
            .collect();
        assert_eq!(times, [vec![1], vec![2, 3], vec![4]]);
    }
}
