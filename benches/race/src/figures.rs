//! What is measured of a run, and statistics.

use std::time::Duration;

use crate::scenario::{PATIENCE, Scenario};

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Seconds from the arrival to the first token.
    pub(crate) first: Option<f64>,
    /// Why there was no complete answer.
    pub(crate) failure: Option<String>,
}

/// The figures of one run of a scenario; times are in seconds of the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// The time to the first token, over all reported requests; a failed one counts as the
    /// patience of a client.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The part of the reported requests that had no complete answer, in percent.
    pub(crate) failed: f64,
    /// Loads that replaced another model.
    pub(crate) swaps: u64,
    /// CPU time of the proxy for each request, in milliseconds.
    pub(crate) cpu: Option<f64>,
}

impl Figures {
    pub(crate) fn of(
        scenario: &Scenario,
        outcomes: &[Outcome],
        swaps: u64,
        cpu: Option<Duration>,
    ) -> Self {
        let reported = scenario.jobs.iter().zip(outcomes);
        let reported = reported.filter(|(job, _)| scenario.is_reported(job));
        let reported: Vec<&Outcome> = reported.map(|(_, outcome)| outcome).collect();
        let wait = |outcome: &&Outcome| match (&outcome.failure, outcome.first) {
            (None, Some(first)) => first,
            _ => PATIENCE,
        };
        let mut waits: Vec<f64> = reported.iter().map(wait).collect();
        waits.sort_by(f64::total_cmp);
        let failed = reported.iter().filter(|outcome| outcome.failure.is_some());
        Self {
            p50: percentile(&waits, 0.5),
            p99: percentile(&waits, 0.99),
            failed: 100.0 * failed.count() as f64 / reported.len().max(1) as f64,
            swaps,
            cpu: cpu.map(|cpu| 1e3 * cpu.as_secs_f64() / outcomes.len().max(1) as f64),
        }
    }
}

/// The value below which `share` of the sorted values lie; 0 for an empty list.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    sorted[(last as f64 * share).round() as usize]
}

/// The median, or `None` of an empty list.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{scenario::Length, trace::tiny};

    #[test]
    fn a_failed_request_counts_as_the_patience() {
        let [trace, _] = tiny();
        let length = Length {
            seconds: 50.0,
            round: 0,
        };
        let scenario = Scenario::named("swaps", &[trace], length).unwrap();
        let answered = Outcome {
            first: Some(1.0),
            failure: None,
        };
        let mut outcomes = vec![answered; scenario.jobs.len()];
        outcomes[3] = Outcome {
            first: Some(0.5),
            failure: Some("cut".to_owned()),
        };
        let figures = Figures::of(&scenario, &outcomes, 2, None);
        assert_eq!(
            (figures.p50, figures.p99, figures.swaps),
            (1.0, PATIENCE, 2)
        );
        assert!((figures.failed - 100.0 / 24.0).abs() < 1e-9);
    }

    #[test]
    fn a_median_of_an_even_number_is_between_the_middle_values() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
