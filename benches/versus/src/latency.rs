//! Latencies, measured while no other process took the cores.
//!
//! Time slices with other work are excluded. Pauses of the proxy itself are included.

use std::time::{Duration, Instant};

use crate::{
    cores::{LostTime, LostTimeMeter},
    cpu::TICK,
    report::percentile,
};

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(50);

/// The lost time up to which a slice is quiet.
const MAX_LOST_IN_QUIET_SLICE: Duration = Duration::from_micros(100);

/// The smallest share of quiet times that is enough for a distribution.
const MIN_QUIET_SHARE: f64 = 0.1;

/// A latency distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Latency {
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// The share of the times that were counted, from 0 to 1. `None` if too few times were quiet;
    /// then all times were counted.
    pub(crate) quiet: Option<f64>,
}

/// Collects times in nanoseconds.
#[derive(Debug)]
pub(crate) struct Recorder {
    meter: LostTimeMeter,
    end: Instant,
    /// The lost time of the cores at the start of the first slice.
    lost: LostTime,
    slices: Vec<Slice>,
    open: Vec<u64>,
    /// The next time, and the last time, to read the lost time at the end of the last slice again.
    again: Option<(Instant, Instant)>,
}

#[derive(Debug)]
struct Slice {
    times: Vec<u64>,
    /// The lost time of the cores at the end of the slice.
    lost: LostTime,
}

impl Recorder {
    pub(crate) fn start(meter: LostTimeMeter) -> Self {
        let now = Instant::now();
        Self {
            lost: meter.read(),
            meter,
            end: now + SLICE,
            slices: Vec::new(),
            open: Vec::new(),
            again: Some(reading_times(now)),
        }
    }

    pub(crate) fn push(&mut self, now: Instant, nanoseconds: u64) {
        if now >= self.end {
            self.close(now);
            self.end = now + SLICE;
        } else if let Some((next, end)) = self.again
            && now >= next
        {
            let last = match self.slices.last_mut() {
                Some(slice) => &mut slice.lost,
                None => &mut self.lost,
            };
            *last = last.least(self.meter.read());
            self.again = (now < end).then(|| (reading_times(now).0, end));
        }
        self.open.push(nanoseconds);
    }

    fn close(&mut self, now: Instant) {
        let lost = self.meter.read();
        let before = self.slices.last().map_or(self.lost, |slice| slice.lost);
        self.again = (lost.since(before) > MAX_LOST_IN_QUIET_SLICE).then(|| reading_times(now));
        self.slices.push(Slice {
            times: std::mem::take(&mut self.open),
            lost,
        });
    }

    pub(crate) fn finish(mut self) -> Latency {
        self.close(Instant::now());
        Latency::of(self.lost, &self.slices)
    }
}

/// The next and the last time of a series of readings.
fn reading_times(now: Instant) -> (Instant, Instant) {
    (now + TICK / 4, now + TICK * 5 / 4)
}

impl Latency {
    /// The latency of all times in quiet slices, or of all times if these are too few. A delay in
    /// one slice can show in the next slice, so a quiet slice must follow another quiet slice.
    fn of(mut lost: LostTime, slices: &[Slice]) -> Self {
        let mut times = Vec::new();
        let mut follows_quiet = true;
        for slice in slices {
            let is_quiet = slice.lost.since(lost) <= MAX_LOST_IN_QUIET_SLICE;
            if follows_quiet && is_quiet {
                times.extend(&slice.times);
            }
            (lost, follows_quiet) = (slice.lost, is_quiet);
        }
        let all = || slices.iter().flat_map(|slice| &slice.times);
        let share = times.len() as f64 / all().count().max(1) as f64;
        let quiet = (share >= MIN_QUIET_SHARE).then_some(share);
        if quiet.is_none() {
            times = all().copied().collect();
        }
        times.sort_unstable();
        let microseconds = |share| percentile(&times, share) as f64 / 1e3;
        Self {
            median: microseconds(0.5),
            p99: microseconds(0.99),
            quiet,
        }
    }
}

impl std::ops::Sub for Latency {
    type Output = Self;

    fn sub(self, base: Self) -> Self {
        Self {
            median: self.median - base.median,
            p99: self.p99 - base.p99,
            quiet: self.quiet,
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

    /// Slices with this much lost time in microseconds.
    fn slices(all: &[(i64, &[u64])]) -> Vec<Slice> {
        let mut lost = LostTime::default();
        let slice = |&(more, times): &(i64, &[u64])| {
            lost.proxy += more * 1_000;
            let times = times.to_vec();
            Slice { times, lost }
        };
        all.iter().map(slice).collect()
    }

    fn latency(all: &[(i64, &[u64])]) -> Latency {
        Latency::of(LostTime::default(), &slices(all))
    }

    #[test]
    fn times_in_and_after_a_slice_with_lost_time_do_not_count() {
        let latency = latency(&[
            (0, &[10_000, 30_000]),
            (900, &[500_000]),
            (0, &[800_000]),
            (100, &[20_000]),
        ]);
        let (median, p99, quiet) = (20.0, 30.0, Some(0.6));
        assert_eq!(latency, Latency { median, p99, quiet });
    }

    #[test]
    fn the_pauses_of_a_proxy_count() {
        let latency = latency(&[(0, &[10_000]), (0, &[5_000_000, 4_000_000])]);
        assert_eq!(latency.p99, 5_000.0);
    }

    #[test]
    fn without_quiet_slices_all_times_count() {
        let seen = latency(&[(900, &[3_000, 1_000, 2_000]), (900, &[])]);
        assert_eq!((seen.median, seen.p99, seen.quiet), (2.0, 3.0, None));
        assert_eq!(latency(&[]), Latency::default());
        let mostly = [4_000; 20];
        assert_eq!(latency(&[(0, &[1_000]), (900, &mostly)]).quiet, None);
    }

    #[test]
    fn a_slice_ends_after_its_length() {
        let mut recorder = Recorder::start(LostTimeMeter::own_core());
        let begin = recorder.end;
        recorder.push(begin - SLICE, 1);
        recorder.push(begin, 2);
        recorder.push(begin + SLICE / 2, 3);
        recorder.push(begin + SLICE, 4);
        recorder.close(begin + SLICE);
        let times: Vec<_> = recorder
            .slices
            .iter()
            .map(|one| one.times.clone())
            .collect();
        assert_eq!(times, [vec![1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn the_lost_time_is_read_again_for_one_tick() {
        let mut recorder = Recorder::start(LostTimeMeter::own_core());
        recorder.lost.own = i64::MAX;
        let begin = recorder.end - SLICE;
        recorder.push(begin, 1);
        assert_eq!(recorder.lost.own, i64::MAX);
        recorder.push(begin + TICK / 2, 2);
        assert!(recorder.lost.own < i64::MAX);
        recorder.lost.own = i64::MAX;
        recorder.push(begin + TICK * 2, 3);
        recorder.lost.own = i64::MAX;
        recorder.push(begin + TICK * 4, 4);
        assert_eq!(recorder.lost.own, i64::MAX);
    }
}
