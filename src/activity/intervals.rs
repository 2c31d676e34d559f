//! Totals of the requests that ended in the last minutes.

use std::collections::VecDeque;
use std::time::Duration;

use super::FinishedRequest;

/// The length of an interval.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// The number of intervals that are kept: 15 minutes.
const INTERVALS: usize = 180;
/// The number of times to the first byte that are kept of each interval: a random sample of them.
const SAMPLE: usize = 128;

/// Totals of the requests that ended in one interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntervalTotals {
    /// When it began, in seconds since 1970.
    pub at: i64,
    /// Requests that ran a model.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The tokens of the prompts.
    pub prompt_tokens: u64,
    /// The tokens of the responses.
    pub output_tokens: u64,
    streams: u64,
    first_bytes: Vec<f32>,
}

impl IntervalTotals {
    fn starting(at: i64) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }

    /// A quantile of the time to the first byte of streams, in seconds; `None` without a stream.
    pub fn first_byte(&self, quantile: f64) -> Option<f64> {
        let mut times = self.first_bytes.clone();
        let last = times.len().checked_sub(1)?;
        let index = (quantile * last as f64).round() as usize;
        let (_, time, _) = times.select_nth_unstable_by(index.min(last), f32::total_cmp);
        Some(f64::from(*time))
    }

    fn add(&mut self, request: &FinishedRequest, is_stream: bool) {
        self.requests += 1;
        self.failed += u64::from(request.has_failed());
        if let Some(usage) = request.usage {
            self.prompt_tokens += usage.prompt_tokens;
            self.output_tokens += usage.output_tokens;
        }
        let was_served = request.status == Some(200) && is_stream;
        if let Some(time) = request.first_byte.filter(|_| was_served) {
            self.sample(time.as_secs_f32());
        }
    }

    /// Each stream of the interval has the same chance to be in the sample.
    fn sample(&mut self, time: f32) {
        self.streams += 1;
        if self.first_bytes.len() < SAMPLE {
            self.first_bytes.push(time);
            return;
        }
        let place = usize::try_from(fastrand::u64(..self.streams)).unwrap_or(SAMPLE);
        if let Some(kept) = self.first_bytes.get_mut(place) {
            *kept = time;
        }
    }
}

/// The intervals of the last minutes, the oldest first. Intervals without a request are not kept.
#[derive(Debug, Default)]
pub(super) struct Intervals(VecDeque<IntervalTotals>);

impl Intervals {
    pub(super) fn add(&mut self, request: &FinishedRequest, is_stream: bool) {
        let mut at = begin_of(request.ended_at.as_second());
        let step = INTERVAL.as_secs().cast_signed();
        // Of two requests that end at once, the later one can come first.
        if self.0.back().is_some_and(|last| last.at == at + step) {
            at += step;
        }
        // The clock of the system can be set back.
        while self.0.back().is_some_and(|last| last.at > at) {
            self.0.pop_back();
        }
        if self.0.back().is_none_or(|last| last.at < at) {
            if self.0.len() >= INTERVALS {
                self.0.pop_front();
            }
            self.0.push_back(IntervalTotals::starting(at));
        }
        if let Some(last) = self.0.back_mut() {
            last.add(request, is_stream);
        }
    }

    /// All intervals that are complete at this second since 1970, also those without a request.
    pub(super) fn complete(&self, now: i64) -> Vec<IntervalTotals> {
        let step = INTERVAL.as_secs().cast_signed();
        let end = begin_of(now);
        let first = end - step * INTERVALS as i64;
        let mut known = self.0.iter().skip_while(|row| row.at < first).peekable();
        let times = (0..INTERVALS as i64).map(|index| first + index * step);
        times
            .map(|at| match known.next_if(|row| row.at <= at) {
                Some(row) => row.clone(),
                None => IntervalTotals::starting(at),
            })
            .collect()
    }
}

fn begin_of(second: i64) -> i64 {
    second - second.rem_euclid(INTERVAL.as_secs().cast_signed())
}
