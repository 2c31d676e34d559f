//! The requests of a scenario: those of a trace or made-up ones, dealt to models and clients.

use std::sync::Arc;

use llamatower_sim::comparison::{
    BEGIN, BURST_FOR_EACH_SLOT, GREEDY_PART, OTHER_CLIENTS, SHORTEST_PROMPT, conversations,
};

use super::scenario::Scenario;
use super::server::BLOCK_TOKENS;
use super::trace::Row;
use super::world::Arrival;

/// The client that sends more than all others, where there is one.
pub(super) const GREEDY: usize = 0;
/// The number of all clients.
pub(super) const CLIENTS: usize = 1 + OTHER_CLIENTS;
/// The conversations that are continued, where prefixes are made up.
const CONVERSATIONS: usize = 64;
/// The probability that a request continues one of them.
const CONTINUES: f64 = 0.5;
/// The block with which all prompts begin where prefixes are made up: a system prompt.
const SYSTEM_BLOCK: u64 = 0;

/// Makes up requests like those of a trace of conversations: log-normal sizes with the medians and
/// 90th percentiles of the Azure conversation trace of 2023, at random times.
pub(super) fn synthetic(count: usize, random: &mut fastrand::Rng) -> Vec<Row> {
    let mut at = 0.0;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        at += exponential(random);
        rows.push(Row {
            at,
            prompt_tokens: log_normal(random, 1020.0, 0.77).clamp(1.0, 16_000.0) as u32,
            output_tokens: log_normal(random, 129.0, 0.93).clamp(1.0, 1_000.0) as u32,
            blocks: Arc::default(),
        });
    }
    rows
}

/// So many requests of a trace in a row, or about so many of whole conversations if the trace tells
/// which prompts begin alike.
pub(super) fn part(rows: &[Row], count: usize) -> Vec<Row> {
    if rows.iter().any(|row| !row.blocks.is_empty()) {
        let part = conversations(rows, count, 0, |row| &row.blocks);
        return part.into_iter().cloned().collect();
    }
    let begin = (BEGIN * rows.len() as f64) as usize;
    let from = match rows.len() - begin >= count {
        true => begin,
        false => 0,
    };
    rows[from..rows.len().min(from + count)].to_vec()
}

/// The requests of a scenario. The gaps between them are all stretched by one factor, so that they
/// use its part of the capacity.
pub(super) fn deal(scenario: &Scenario, rows: &[Row], seed: u64) -> Vec<Arrival> {
    let mut random = fastrand::Rng::with_seed(seed);
    let begin = rows.first().map_or(0.0, |row| row.at);
    let work: f64 = rows
        .iter()
        .map(|row| scenario.seconds_at_speed_1(&sized(row)))
        .sum();
    let span = rows.last().map_or(0.0, |row| row.at - begin);
    let seconds = work / (scenario.capacity() * scenario.load);
    let stretch = if span > 0.0 { seconds / span } else { 0.0 };
    let arrivals = rows.iter().map(sized).map(|row| Arrival {
        at: (row.at - begin) * stretch,
        client: 0,
        model: 0,
        prompt_tokens: row.prompt_tokens,
        output_tokens: row.output_tokens,
        blocks: row.blocks,
    });
    let mut arrivals: Vec<Arrival> = arrivals.collect();
    if scenario.models > 1 {
        deal_models(&mut arrivals, scenario.models, &mut random);
    }
    if scenario.has_greedy_client {
        let slots = scenario.servers.iter().map(|server| server.slots);
        let burst = BURST_FOR_EACH_SLOT * slots.sum::<usize>();
        deal_clients(&mut arrivals, burst, &mut random);
    }
    if scenario.shares_prefixes && arrivals.iter().all(|arrival| arrival.blocks.is_empty()) {
        share_prefixes(&mut arrivals, &mut random);
    }
    arrivals
}

fn sized(row: &Row) -> Row {
    Row {
        prompt_tokens: row.prompt_tokens.max(SHORTEST_PROMPT),
        output_tokens: row.output_tokens.max(1),
        ..row.clone()
    }
}

/// The n-th model gets a part of the requests in proportion to 1/n.
fn deal_models(arrivals: &mut [Arrival], models: usize, random: &mut fastrand::Rng) {
    let sum: f64 = (1..=models).map(|nth| 1.0 / nth as f64).sum();
    for arrival in arrivals {
        let mut left = random.f64() * sum;
        let found = (0..models).find(|model| {
            left -= 1.0 / (model + 1) as f64;
            left <= 0.0
        });
        arrival.model = found.unwrap_or(models - 1);
    }
}

/// Deals the requests to the greedy client, which sends them in bursts, and to the others.
fn deal_clients(arrivals: &mut [Arrival], burst: usize, random: &mut fastrand::Rng) {
    for arrival in &mut *arrivals {
        arrival.client = match random.f64() < GREEDY_PART {
            true => GREEDY,
            false => random.usize(1..=OTHER_CLIENTS),
        };
    }
    let of_greedy = |at: &usize| arrivals[*at].client == GREEDY;
    let greedy: Vec<usize> = (0..arrivals.len()).filter(of_greedy).collect();
    for burst in greedy.chunks(burst.max(1)) {
        let at = arrivals[burst[0]].at;
        for request in burst {
            arrivals[*request].at = at;
        }
    }
    arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
}

/// Each prompt continues one of the last conversations, or begins a new one.
fn share_prefixes(arrivals: &mut [Arrival], random: &mut fastrand::Rng) {
    let mut history: Vec<Vec<u64>> = Vec::new();
    let mut next = SYSTEM_BLOCK;
    for arrival in arrivals {
        let count = (arrival.prompt_tokens / BLOCK_TOKENS) as usize;
        let mut blocks = vec![SYSTEM_BLOCK];
        if random.f64() < CONTINUES && !history.is_empty() {
            blocks.clone_from(&history[random.usize(..history.len())]);
        }
        while blocks.len() < count {
            next += 1;
            blocks.push(next);
        }
        arrival.blocks = blocks[..count].into();
        if history.len() < CONVERSATIONS {
            history.push(blocks);
        } else {
            history[random.usize(..CONVERSATIONS)] = blocks;
        }
    }
}

fn exponential(random: &mut fastrand::Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}

fn log_normal(random: &mut fastrand::Rng, median: f64, sigma: f64) -> f64 {
    // Box and Muller's transformation of two uniform values.
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
    median * (sigma * normal).exp()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::scenario::all;
    use super::*;

    fn dealt(name: &str) -> (Scenario, Vec<Arrival>) {
        let rows = synthetic(2000, &mut fastrand::Rng::with_seed(3));
        let scenario = all().into_iter().find(|one| one.name == name).unwrap();
        let arrivals = deal(&scenario, &rows, 3);
        (scenario, arrivals)
    }

    #[test]
    fn requests_use_the_wanted_part_of_the_capacity() {
        for scenario in all() {
            let (scenario, arrivals) = dealt(scenario.name);
            let work = arrivals.iter().map(|arrival| {
                scenario.seconds_at_speed_1(&Row {
                    at: 0.0,
                    prompt_tokens: arrival.prompt_tokens,
                    output_tokens: arrival.output_tokens,
                    blocks: Arc::default(),
                })
            });
            let used = work.sum::<f64>() / arrivals.last().unwrap().at / scenario.capacity();
            // Bursts of a greedy client move its last requests forward.
            assert!((used - scenario.load).abs() < 0.02, "{used}");
        }
    }

    #[test]
    fn the_greedy_client_sends_more_than_twice_as_much_as_the_others() {
        let (_, arrivals) = dealt("greedy-client");
        let greedy = arrivals.iter().filter(|arrival| arrival.client == GREEDY);
        let greedy = greedy.count();
        assert!(greedy > 2 * (arrivals.len() - greedy));
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
    }

    #[test]
    fn models_are_dealt_by_zipf_and_prefixes_are_shared() {
        let (_, arrivals) = dealt("many-models");
        let of = |model| arrivals.iter().filter(|one| one.model == model).count();
        assert!((0..5).all(|model| of(model) > of(model + 1)));
        let (_, arrivals) = dealt("hot-prefix");
        let with_blocks: Vec<_> = arrivals.iter().filter(|one| one.blocks.len() > 1).collect();
        assert!(with_blocks.iter().all(|one| one.blocks[0] == SYSTEM_BLOCK));
        let second: std::collections::HashSet<_> =
            with_blocks.iter().map(|one| one.blocks[1]).collect();
        assert!(second.len() < with_blocks.len());
    }

    #[test]
    fn a_part_of_a_trace_leaves_its_begin_out_if_it_can() {
        let rows = synthetic(100, &mut fastrand::Rng::with_seed(3));
        assert_eq!(part(&rows, 50)[0], rows[10]);
        assert_eq!(part(&rows, 50).len(), 50);
        assert_eq!(part(&rows, 95).len(), 95);
        assert_eq!(part(&rows, 500), rows);
    }
}
