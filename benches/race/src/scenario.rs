//! What is measured: fleets, their faults, and the requests that arrive.

mod jobs;

use llamatower_sim::FaultKind;
use llamatower_sim::comparison::{
    BURST_FOR_EACH_SLOT, FIRST_BYTE, LOAD, LOAD_BESIDE_SWAPS, MODELS, PREFIX_CACHE, PROMPT_RATE,
    SHORTEST_PROMPT, SLOW_PROMPT_RATE,
};
pub(crate) use llamatower_sim::comparison::{LOAD_TIME, PACE, PATIENCE, SLOTS};

use crate::trace::{Entry, Trace};
use jobs::{alternating, deal_clients, deal_models, flood, stretched};

/// A server of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) speed: f64,
    /// Prompt tokens in a second, at speed 1.
    pub(crate) prompt_rate: f64,
    pub(crate) slots: usize,
    /// What it does with requests that run a model.
    pub(crate) fault: Option<FaultKind>,
}

impl Server {
    /// A server that has no fault.
    pub(crate) fn at_speed(speed: f64) -> Self {
        Self {
            speed,
            prompt_rate: PROMPT_RATE,
            slots: SLOTS,
            fault: None,
        }
    }

    /// The seconds that it needs to process these tokens of a prompt and to generate the first
    /// token.
    pub(crate) fn first_token_time(&self, prompt_tokens: u64) -> f64 {
        (prompt_tokens.max(1) as f64 / self.prompt_rate + PACE) / self.speed
    }

    /// The seconds from the first token of an answer to the last one.
    pub(crate) fn decode_time(&self, reply_tokens: u64) -> f64 {
        reply_tokens.saturating_sub(1) as f64 * PACE / self.speed
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Seconds since the begin.
    pub(crate) arrival: f64,
    pub(crate) prompt_tokens: u64,
    pub(crate) reply_tokens: u64,
    pub(crate) blocks: Vec<u64>,
    pub(crate) model: usize,
    pub(crate) client: usize,
}

impl Job {
    fn of(entry: &Entry, arrival: f64) -> Self {
        Self {
            arrival,
            prompt_tokens: entry.prompt_tokens.max(SHORTEST_PROMPT.into()),
            reply_tokens: entry.reply_tokens,
            blocks: entry.blocks.clone(),
            model: 0,
            client: 0,
        }
    }
}

/// The client that asks for more than all the others, where there is one.
pub(crate) const GREEDY: usize = 0;

/// A fleet and the requests that arrive.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) servers: Vec<Server>,
    /// The number of models. Each server has all of them installed, and room for one in memory; a
    /// single model is in memory from the begin.
    pub(crate) models: usize,
    pub(crate) prefix_cache: Option<u64>,
    /// The time-out for the first byte of an answer that the proxies are given, in seconds.
    pub(crate) first_byte: Option<f64>,
    /// Whether clients show who they are, and figures are of all clients but the greedy one.
    pub(crate) has_clients: bool,
    pub(crate) jobs: Vec<Job>,
}

/// The names of the scenarios, in order.
pub(crate) const NAMES: [&str; 10] = [
    "skew",
    "models",
    "healthy",
    "busy",
    "broken",
    "hang",
    "prefix",
    "greedy",
    "newcomers",
    "swaps",
];

/// How long scenarios last, and which part of the trace they use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    /// Seconds of arrivals.
    pub(crate) seconds: f64,
    /// From 0; each round uses another part of the trace.
    pub(crate) round: usize,
}

impl Scenario {
    /// The scenario of a name, or `None` if it needs a trace with prefixes and there is none.
    pub(crate) fn named(name: &'static str, traces: &[Trace], length: Length) -> Option<Self> {
        let trace = traces.first()?;
        let even = |count: usize| vec![Server::at_speed(1.0); count];
        let faulty = |fault: Option<FaultKind>| {
            let mut servers = even(3);
            servers[1].fault = fault;
            servers
        };
        let status = |status| FaultKind::Status {
            status,
            body: "{\"error\":\"llama runner process has terminated\"}".to_owned(),
        };
        let mut scenario = Self {
            name,
            title: "",
            servers: even(2),
            models: 1,
            prefix_cache: None,
            first_byte: None,
            has_clients: false,
            jobs: Vec::new(),
        };
        match name {
            "skew" => {
                scenario.title = "3 servers at speeds 1, 1/2 and 1/4";
                scenario.servers = [1.0, 0.5, 0.25].map(Server::at_speed).to_vec();
            }
            "models" => {
                scenario.title = "4 servers with room for one model, 6 models by Zipf, load 8 s";
                scenario.servers = even(4);
                scenario.models = MODELS;
            }
            "healthy" => scenario.title = "2 healthy servers (what the next three compare with)",
            "busy" => {
                scenario.title = "one of three answers 503 at once";
                scenario.servers = faulty(Some(FaultKind::Busy));
            }
            "broken" => {
                scenario.title = "one of three answers 500 at once";
                scenario.servers = faulty(Some(status(500)));
            }
            "hang" => {
                scenario.title = "one of three never answers (first-byte time-out 10 s)";
                scenario.servers = faulty(Some(FaultKind::Hang));
                scenario.first_byte = Some(FIRST_BYTE);
            }
            "prefix" => {
                scenario.title = "4 servers with prefix caches, prompts that share prefixes";
                scenario.servers = even(4);
                for server in &mut scenario.servers {
                    server.prompt_rate = SLOW_PROMPT_RATE;
                }
                scenario.prefix_cache = Some(PREFIX_CACHE.into());
                let with_blocks = traces.iter().find(|trace| trace.has_blocks())?;
                scenario.jobs = stretched(with_blocks, &scenario.servers, LOAD, length);
                return Some(scenario);
            }
            "greedy" => {
                scenario.title = "3 servers, one client with more than twice all the others";
                scenario.servers = even(3);
                scenario.has_clients = true;
            }
            "newcomers" => {
                scenario.title = "2 newcomers behind one client's flood of 24 requests, 2 servers";
                scenario.has_clients = true;
                scenario.jobs = flood(24, 2);
                return Some(scenario);
            }
            "swaps" => {
                scenario.title = "2 models, 2 servers with room for one, 24 requests";
                scenario.models = 2;
                scenario.jobs = alternating(24, length.round);
                return Some(scenario);
            }
            _ => return None,
        }
        let load = match scenario.models {
            1 => LOAD,
            _ => LOAD_BESIDE_SWAPS,
        };
        scenario.jobs = stretched(trace, &scenario.servers, load, length);
        let mut random = fastrand::Rng::with_seed(7 + length.round as u64);
        if scenario.models > 1 {
            deal_models(&mut scenario.jobs, scenario.models, &mut random);
        }
        if scenario.has_clients {
            let slots: usize = scenario.servers.iter().map(|server| server.slots).sum();
            let burst = BURST_FOR_EACH_SLOT * slots;
            deal_clients(&mut scenario.jobs, burst, &mut random);
        }
        Some(scenario)
    }

    /// The jobs whose waits are reported.
    pub(crate) fn is_reported(&self, job: &Job) -> bool {
        !self.has_clients || job.client != GREEDY
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::trace::tiny;

    #[test]
    fn the_greedy_client_asks_for_more_than_twice_all_the_others() {
        let [trace, _] = tiny();
        let length = Length {
            seconds: 100.0,
            round: 0,
        };
        let greedy = Scenario::named("greedy", &[trace], length).unwrap();
        let of_greedy = greedy.jobs.iter().filter(|job| !greedy.is_reported(job));
        assert!(
            of_greedy.count()
                > 2 * greedy
                    .jobs
                    .iter()
                    .filter(|job| greedy.is_reported(job))
                    .count()
        );
    }
}
