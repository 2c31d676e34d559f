//! A central queue that knows all work, in virtual time: what routing can achieve.
//!
//! It is a strong reference and not a proven optimum: requests are served in order of arrival, by
//! the server where that is best, and of several policies the best one counts.

mod swapping;

use std::collections::{HashMap, HashSet};

use crate::{
    figures::percentile,
    scenario::{Job, Scenario, Server},
    trace::BLOCK_TOKENS,
};

/// What a central queue achieves.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    /// The time to the first token of each job, in seconds, in the order of the jobs.
    pub(crate) first: Vec<f64>,
    pub(crate) swaps: u64,
}

/// The best result of several policies.
pub(crate) fn best(scenario: &Scenario) -> Oracle {
    let candidates: Vec<Oracle> = if scenario.models > 1 {
        swapping::candidates(scenario)
    } else if scenario.has_clients {
        vec![with_priority(scenario)]
    } else {
        [Aim::FirstToken, Aim::Completion]
            .map(|aim| in_order(scenario, aim))
            .into()
    };
    let share = if scenario.prefix_cache.is_some() {
        0.5
    } else {
        0.99
    };
    let figure = |oracle: &Oracle| {
        let mut sorted = oracle.first.clone();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, share)
    };
    let best = candidates
        .into_iter()
        .min_by(|a, b| figure(a).total_cmp(&figure(b)));
    best.unwrap_or(Oracle {
        first: Vec::new(),
        swaps: 0,
    })
}

fn healthy(scenario: &Scenario) -> Vec<&Server> {
    let servers = scenario.servers.iter();
    servers.filter(|server| server.fault.is_none()).collect()
}

/// What is best for a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aim {
    FirstToken,
    Completion,
}

/// Each job in order of arrival goes where its first token, or its last one, comes soonest.
fn in_order(scenario: &Scenario, aim: Aim) -> Oracle {
    let servers = healthy(scenario);
    let mut free: Vec<Vec<f64>> = servers.iter().map(|one| vec![0.0; one.slots]).collect();
    let mut caches = vec![Blocks::new(scenario.prefix_cache); servers.len()];
    let mut firsts = Vec::with_capacity(scenario.jobs.len());
    for job in &scenario.jobs {
        let choices = servers.iter().enumerate().map(|(nth, server)| {
            let slot = earliest(&free[nth]);
            let start = free[nth][slot].max(job.arrival);
            let cached = caches[nth]
                .cached_tokens(job, start)
                .min(job.prompt_tokens - 1);
            let first = start + server.first_token_time(job.prompt_tokens - cached);
            (
                nth,
                slot,
                first,
                first + server.decode_time(job.reply_tokens),
            )
        });
        let cost = |(_, _, first, end): &(usize, usize, f64, f64)| match aim {
            Aim::FirstToken => *first,
            Aim::Completion => *end,
        };
        let Some((nth, slot, first, end)) = choices.min_by(|a, b| cost(a).total_cmp(&cost(b)))
        else {
            continue;
        };
        free[nth][slot] = end;
        caches[nth].add(job, first);
        firsts.push(first - job.arrival);
    }
    Oracle {
        first: firsts,
        swaps: 0,
    }
}

/// A request of the greedy client begins only when no other one waits.
fn with_priority(scenario: &Scenario) -> Oracle {
    let servers = healthy(scenario);
    let mut free: Vec<(usize, f64)> = servers
        .iter()
        .enumerate()
        .flat_map(|(nth, server)| vec![(nth, 0.0); server.slots])
        .collect();
    let mut waiting: Vec<usize> = (0..scenario.jobs.len()).collect();
    let mut first = vec![0.0; scenario.jobs.len()];
    while let Some(soonest) = waiting
        .iter()
        .map(|at| scenario.jobs[*at].arrival)
        .reduce(f64::min)
    {
        let times: Vec<f64> = free.iter().map(|(_, at)| *at).collect();
        let slot = earliest(&times);
        let now = times[slot].max(soonest);
        let arrived = |at: &usize| scenario.jobs[*at].arrival <= now;
        let next = (0..waiting.len())
            .filter(|nth| arrived(&waiting[*nth]))
            .min_by_key(|nth| (!scenario.is_reported(&scenario.jobs[waiting[*nth]]), *nth));
        let Some(next) = next else { break };
        let at = waiting.remove(next);
        let (job, server) = (&scenario.jobs[at], servers[free[slot].0]);
        let begun = now + server.first_token_time(job.prompt_tokens);
        first[at] = begun - job.arrival;
        free[slot].1 = begun + server.decode_time(job.reply_tokens);
    }
    Oracle { first, swaps: 0 }
}

fn earliest(times: &[f64]) -> usize {
    let slots = 0..times.len();
    slots
        .min_by(|a, b| times[*a].total_cmp(&times[*b]))
        .unwrap_or(0)
}

/// The prefix cache of a server, in blocks of the trace.
#[derive(Clone, Debug)]
struct Blocks {
    max: usize,
    /// The order of the last use of a block, and the time since when it is in the cache.
    used: HashMap<u64, (u64, f64)>,
    uses: u64,
}

impl Blocks {
    fn new(tokens: Option<u64>) -> Self {
        Self {
            max: (tokens.unwrap_or(0) / BLOCK_TOKENS) as usize,
            used: HashMap::new(),
            uses: 0,
        }
    }

    fn cached_tokens(&self, job: &Job, at: f64) -> u64 {
        let known = job
            .blocks
            .iter()
            .take_while(|id| self.used.get(id).is_some_and(|(_, since)| *since <= at));
        known.count() as u64 * BLOCK_TOKENS
    }

    fn add(&mut self, job: &Job, at: f64) {
        if self.max == 0 {
            return;
        }
        for id in job.blocks.iter().rev() {
            self.uses += 1;
            let known = self.used.entry(*id).or_insert((0, at));
            *known = (self.uses, known.1.min(at));
        }
        if self.used.len() > self.max {
            let mut by_age: Vec<(u64, u64)> = self
                .used
                .iter()
                .map(|(id, (order, _))| (*order, *id))
                .collect();
            by_age.sort_unstable();
            let old = by_age.iter().take(self.used.len() - self.max);
            let old: HashSet<u64> = old.map(|(_, id)| *id).collect();
            self.used.retain(|id, _| !old.contains(id));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{scenario::Length, trace::tiny};

    #[test]
    fn a_single_server_serves_in_order() {
        let [trace, _] = tiny();
        let length = Length {
            seconds: 60.0,
            round: 0,
        };
        let mut scenario = Scenario::named("healthy", &[trace], length).unwrap();
        scenario.servers.truncate(1);
        scenario.servers[0].slots = 1;
        let oracle = best(&scenario);
        let (server, mut free) = (&scenario.servers[0], 0.0_f64);
        for (job, first) in scenario.jobs.iter().zip(&oracle.first) {
            let begun = free.max(job.arrival) + server.first_token_time(job.prompt_tokens);
            assert!((begun - job.arrival - first).abs() < 1e-9);
            free = begun + server.decode_time(job.reply_tokens);
        }
    }

    #[test]
    fn newcomers_do_not_wait_for_a_flood() {
        let [trace, _] = tiny();
        let length = Length {
            seconds: 60.0,
            round: 0,
        };
        let scenario = Scenario::named("newcomers", &[trace], length).unwrap();
        let oracle = best(&scenario);
        // At most the rest of one request, and its own prompt.
        assert!(oracle.first[24] < 3.3 && oracle.first[25] < 3.3);
        assert!(oracle.first[23] > 6.0);
    }

    #[test]
    fn two_models_on_two_servers_need_no_swap() {
        let [trace, _] = tiny();
        let length = Length {
            seconds: 60.0,
            round: 0,
        };
        let scenario = Scenario::named("swaps", &[trace], length).unwrap();
        assert_eq!(best(&scenario).swaps, 0);
    }
}
