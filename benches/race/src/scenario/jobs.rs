//! Which requests arrive, and when.

use llamatower_sim::comparison::{
    BEGIN, GREEDY_PART, OTHER_CLIENTS, SHORTEST_PROMPT, conversations,
};

use super::{GREEDY, Job, Length, Server};
use crate::trace::{Entry, Trace};

/// The seconds that a request keeps a slot of a server of speed 1.
fn work(entry: &Entry, server: &Server) -> f64 {
    let server = Server {
        speed: 1.0,
        ..server.clone()
    };
    server.first_token_time(entry.prompt_tokens.max(SHORTEST_PROMPT.into()))
        + server.decode_time(entry.reply_tokens)
}

/// The requests of a part of the trace that use this part of the capacity of the healthy servers;
/// the gaps between them are all stretched by the same factor.
pub(super) fn stretched(trace: &Trace, servers: &[Server], load: f64, length: Length) -> Vec<Job> {
    let healthy = servers.iter().filter(|server| server.fault.is_none());
    let capacity: f64 = healthy.map(|one| one.speed * one.slots as f64).sum();
    let work = |entry: &Entry| work(entry, &servers[0]);
    let wanted = load * capacity * length.seconds;
    let part = match trace.has_blocks() {
        true => {
            let all: f64 = trace.entries.iter().map(work).sum();
            let count = (wanted / all * trace.entries.len() as f64) as usize;
            conversations(&trace.entries, count, length.round, |entry| &entry.blocks)
        }
        false => consecutive(trace, work, wanted, length.round),
    };
    let begin = part.first().map_or(0.0, |first| first.arrival);
    let span = part.last().map_or(0.0, |last| last.arrival - begin);
    let sum: f64 = part.iter().map(|entry| work(entry)).sum();
    let seconds = sum / (load * capacity);
    let factor = if span > 0.0 { seconds / span } else { 0.0 };
    part.into_iter()
        .map(|entry| Job::of(entry, (entry.arrival - begin) * factor))
        .collect()
}

/// Consecutive requests with so much work; other ones in each round.
fn consecutive(
    trace: &Trace,
    work: impl Fn(&Entry) -> f64,
    wanted: f64,
    round: usize,
) -> Vec<&Entry> {
    let take = |from: usize| {
        let mut sum = 0.0;
        let rest = trace.entries[from..].iter();
        let part: Vec<&Entry> = rest
            .take_while(|entry| {
                let is_wanted = sum < wanted;
                sum += work(entry);
                is_wanted
            })
            .collect();
        (part, sum >= wanted)
    };
    // Not from the first request: the rate of a recording often rises at its begin.
    let begin = (BEGIN + 0.618 * round as f64).fract();
    match take((begin * trace.entries.len() as f64) as usize) {
        (part, true) => part,
        _ => take(0).0,
    }
}

/// The n-th model gets a part of the requests in proportion to 1/n.
pub(super) fn deal_models(jobs: &mut [Job], models: usize, random: &mut fastrand::Rng) {
    let sum: f64 = (1..=models).map(|nth| 1.0 / nth as f64).sum();
    for job in jobs {
        let mut left = random.f64() * sum;
        let found = (0..models).find(|model| {
            left -= 1.0 / (model + 1) as f64;
            left <= 0.0
        });
        job.model = found.unwrap_or(models - 1);
    }
}

/// Deals the requests to the greedy client, which sends them in bursts, and to the others.
pub(super) fn deal_clients(jobs: &mut [Job], burst: usize, random: &mut fastrand::Rng) {
    for job in &mut *jobs {
        job.client = match random.f64() < GREEDY_PART {
            true => GREEDY,
            false => random.usize(1..=OTHER_CLIENTS),
        };
    }
    let greedy: Vec<usize> = (0..jobs.len())
        .filter(|at| jobs[*at].client == GREEDY)
        .collect();
    for burst in greedy.chunks(burst) {
        let at = jobs[burst[0]].arrival;
        for job in burst {
            jobs[*job].arrival = at;
        }
    }
    jobs.sort_by(|a, b| a.arrival.total_cmp(&b.arrival));
}

/// A flood of equal requests, and newcomers five seconds later.
pub(super) fn flood(requests: usize, newcomers: usize) -> Vec<Job> {
    let entry = Entry {
        arrival: 0.0,
        prompt_tokens: 400,
        reply_tokens: 120,
        blocks: Vec::new(),
    };
    let flood = (0..requests).map(|_| Job::of(&entry, 0.0));
    let late = (1..=newcomers).map(|client| Job {
        client,
        ..Job::of(&entry, 5.0)
    });
    flood.chain(late).collect()
}

/// Requests for two models in random order, with time for a load and an answer between them.
pub(super) fn alternating(requests: usize, round: usize) -> Vec<Job> {
    let mut random = fastrand::Rng::with_seed(round as u64);
    let mut models: Vec<usize> = (0..requests).map(|nth| nth % 2).collect();
    random.shuffle(&mut models);
    let entry = Entry {
        arrival: 0.0,
        prompt_tokens: 400,
        reply_tokens: 60,
        blocks: Vec::new(),
    };
    let jobs = models.into_iter().enumerate().map(|(nth, model)| Job {
        model,
        ..Job::of(&entry, 10.0 * nth as f64)
    });
    jobs.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{scenario::SLOTS, trace::tiny};

    #[test]
    fn arrivals_use_the_wanted_part_of_the_capacity() {
        let [trace, _] = tiny();
        let servers = [1.0, 0.5].map(Server::at_speed);
        for round in 0..3 {
            let length = Length {
                seconds: 8.0,
                round,
            };
            let jobs = stretched(&trace, &servers, 0.7, length);
            let one = Server::at_speed(1.0);
            let work: f64 = jobs
                .iter()
                .map(|job| {
                    one.first_token_time(job.prompt_tokens) + one.decode_time(job.reply_tokens)
                })
                .sum();
            let last = jobs.last().unwrap().arrival;
            assert!(
                (work / (last * 1.5 * SLOTS as f64) - 0.7).abs() < 1e-9,
                "{work} in {last}"
            );
            assert!(last >= 8.0);
        }
    }

    #[test]
    fn whole_conversations_are_taken_of_a_trace_with_prefixes() {
        let [_, trace] = tiny();
        for (round, block) in [(0, 1), (1, 4)] {
            let part = conversations(&trace.entries, 6, round, |entry| &entry.blocks);
            assert!(part.len() > 3 && part.iter().all(|entry| entry.blocks[1] == block));
        }
    }
}
