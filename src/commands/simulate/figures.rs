//! What is measured in a run.

use super::PATIENCE;
use super::scenario::Scenario;
use super::workload::{CLIENTS, GREEDY};
use super::world::{Arrival, Run};

/// The part of the arrivals, from the first one, that is not counted: servers are idle and nothing
/// is learned yet.
pub(super) const WARM_UP: f64 = 0.05;
/// A request counts for the goodput if its first token comes within so many seconds.
pub(super) const GOOD: f64 = 10.0;

/// The figures of one run; times are in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// The times to the first token of the reported requests, in order. A request that failed or
    /// whose client gave up counts as the patience of a client.
    pub(super) times: Vec<f64>,
    /// The highest 99th percentile of a reported client.
    pub(super) worst_client_p99: f64,
    /// The part of the reported requests that failed or were given up, in percent.
    pub(super) failed: f64,
    /// The part of all arrivals, also of a greedy client, whose first token came within 10 s, in
    /// percent.
    pub(super) goodput: f64,
    /// The loads of the whole run.
    pub(super) loads: usize,
    /// The loads but the first one of each server.
    pub(super) swaps: usize,
}

impl Figures {
    /// The figures of a run. With a greedy client, the times are those of the others.
    pub(super) fn of(scenario: &Scenario, workload: &[Arrival], run: &Run) -> Self {
        let warm_up = (WARM_UP * workload.len() as f64) as usize;
        let counted = || workload.iter().zip(&run.seen).skip(warm_up);
        let is_reported = |client: usize| !scenario.has_greedy_client || client != GREEDY;
        let times_of = |is_wanted: &dyn Fn(usize) -> bool| {
            let wanted = counted().filter(|(arrival, _)| is_wanted(arrival.client));
            let times = wanted.map(|(_, seen)| seen.first_token.unwrap_or(PATIENCE));
            let mut times: Vec<f64> = times.collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let clients = (0..CLIENTS).filter(|client| is_reported(*client));
        let p99s = clients.map(|client| percentile(&times_of(&|of| of == client), 0.99));
        let reported = counted().filter(|(arrival, _)| is_reported(arrival.client));
        let failed = reported.filter(|(_, seen)| seen.first_token.is_none());
        let failed = failed.count();
        let is_good = |time: Option<f64>| time.is_some_and(|time| time <= GOOD);
        let good = counted().filter(|(_, seen)| is_good(seen.first_token));
        let times = times_of(&is_reported);
        Self {
            worst_client_p99: p99s.fold(0.0, f64::max),
            failed: percent(failed, times.len()),
            goodput: percent(good.count(), counted().count()),
            loads: run.loads,
            swaps: run.swaps,
            times,
        }
    }

    /// The time to the first token that this part of the requests does not exceed.
    pub(super) fn percentile(&self, part: f64) -> f64 {
        percentile(&self.times, part)
    }
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// The value below which this part of the sorted values lies; 0 if there are none.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    sorted[(last as f64 * part).round() as usize]
}
