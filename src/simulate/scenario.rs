//! The scenarios, and the workload that is dealt to them.

use super::server::{Fault, ServerSpec};
use super::trace::Row;
use super::world::Arrival;

/// Prompt tokens in a second of a server at speed 1.
const PREFILL: f64 = 2000.0;
/// Output tokens in a second of a server at speed 1.
const DECODE: f64 = 50.0;
/// The load of the fleet, as a part of its capacity.
const LOAD: f64 = 0.7;

/// A fleet and the traffic it gets.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) servers: Vec<ServerSpec>,
    /// The models, by the part of the requests for each.
    pub(super) models: Vec<f64>,
    /// The clients, by the part of the requests of each.
    pub(super) clients: Vec<f64>,
    /// The first-byte clock of the gateway, in seconds.
    pub(super) first_byte: Option<f64>,
    /// Whether prompts share prefixes where the trace does not tell.
    pub(super) shares_prefixes: bool,
    /// The load as a part of the capacity of the healthy servers.
    pub(super) load: f64,
}

impl Scenario {
    fn new(name: &'static str, about: &'static str, servers: Vec<ServerSpec>) -> Self {
        Self {
            name,
            about,
            servers,
            models: vec![1.0],
            clients: vec![1.0],
            first_byte: None,
            shares_prefixes: false,
            load: LOAD,
        }
    }
}

fn server(speed: f64) -> ServerSpec {
    ServerSpec {
        prefill: speed * PREFILL,
        decode: speed * DECODE,
        slots: 1,
        max_loaded: 1,
        load: 8.0,
        fault: Fault::None,
    }
}

fn broken(fault: Fault) -> ServerSpec {
    ServerSpec {
        fault,
        ..server(1.0)
    }
}

/// All scenarios.
pub(super) fn all() -> Vec<Scenario> {
    let zipf = |count: u32| (1..=count).map(|rank| 1.0 / f64::from(rank)).collect();
    let with = |fault| vec![server(1.0), server(1.0), broken(fault)];
    vec![
        Scenario::new(
            "speed-skew",
            "three servers at speeds 1, 1/2 and 1/4",
            vec![server(1.0), server(0.5), server(0.25)],
        ),
        Scenario {
            models: zipf(6),
            ..Scenario::new(
                "many-models",
                "four servers with one model in memory each, six models by Zipf, a load takes 8 s",
                vec![server(1.0); 4],
            )
        },
        Scenario {
            shares_prefixes: true,
            ..Scenario::new(
                "hot-prefix",
                "four servers with a prefix cache, prompts with common beginnings",
                vec![server(1.0); 4],
            )
        },
        Scenario {
            clients: [vec![2.2], vec![0.125; 8]].concat(),
            load: 1.0,
            ..Scenario::new(
                "greedy-client",
                "one client sends more than twice as much as the eight others together",
                vec![server(1.0); 3],
            )
        },
        Scenario::new(
            "flapping",
            "one of three servers answers 503 during every second minute",
            with(Fault::Flapping(60.0)),
        ),
        Scenario::new(
            "fast-503",
            "one of three servers answers 503 at once",
            with(Fault::Status(503)),
        ),
        Scenario::new(
            "fast-500",
            "one of three servers answers 500 at once",
            with(Fault::Status(500)),
        ),
        Scenario {
            first_byte: Some(10.0),
            ..Scenario::new(
                "hang",
                "one of three servers never answers; the first-byte clock is 10 s",
                with(Fault::Hang),
            )
        },
    ]
}

/// Makes up rows like those of a public trace of conversations: log-normal sizes with the medians
/// and 90th percentiles of the Azure conversation trace of 2023, at random times.
pub(super) fn synthetic(count: usize, random: &mut fastrand::Rng) -> Vec<Row> {
    let mut at = 0.0;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        at += exponential(random);
        rows.push(Row {
            at,
            prompt_tokens: log_normal(random, 1020.0, 0.77).clamp(1.0, 16_000.0) as u32,
            output_tokens: log_normal(random, 129.0, 0.93).clamp(1.0, 1_000.0) as u32,
            blocks: Vec::new(),
        });
    }
    rows
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

/// Deals the rows of a trace to the models and clients of a scenario, and stretches their arrivals
/// so that they are its part of the capacity.
pub(super) fn deal(scenario: &Scenario, rows: &[Row], random: &mut fastrand::Rng) -> Vec<Arrival> {
    let work: f64 = rows.iter().map(seconds_at_speed_1).sum();
    let healthy = scenario
        .servers
        .iter()
        .filter(|server| matches!(server.fault, Fault::None | Fault::Flapping(_)));
    let capacity: f64 = healthy
        .map(|server| server.slots as f64 * server.decode / DECODE)
        .sum();
    let span = rows.last().map_or(0.0, |row| row.at).max(1e-9);
    let stretch = work / (capacity * scenario.load) / span;
    let mut history: Vec<Vec<u64>> = Vec::new();
    let mut next_block = 1 << 32;
    rows.iter()
        .map(|row| Arrival {
            at: row.at * stretch,
            client: pick(&scenario.clients, random),
            model: pick(&scenario.models, random),
            prompt_tokens: row.prompt_tokens,
            output_tokens: row.output_tokens,
            blocks: match scenario.shares_prefixes && row.blocks.is_empty() {
                true => shared_blocks(row, &mut history, &mut next_block, random),
                false => row.blocks.clone(),
            },
        })
        .collect()
}

pub(super) fn seconds_at_speed_1(row: &Row) -> f64 {
    f64::from(row.prompt_tokens) / PREFILL + f64::from(row.output_tokens) / DECODE
}

/// The blocks of a prompt that continues one of the last conversations, or begins a new one.
fn shared_blocks(
    row: &Row,
    history: &mut Vec<Vec<u64>>,
    next: &mut u64,
    random: &mut fastrand::Rng,
) -> Vec<u64> {
    let count = (row.prompt_tokens / 512) as usize;
    let mut blocks = match random.f64() < 0.5 && !history.is_empty() {
        true => history[random.usize(..history.len())].clone(),
        false => Vec::new(),
    };
    blocks.truncate(count);
    while blocks.len() < count {
        *next += 1;
        blocks.push(*next);
    }
    if history.len() < 64 {
        history.push(blocks.clone());
    } else {
        let at = random.usize(..64);
        history[at].clone_from(&blocks);
    }
    blocks
}

/// The index of a part, at random with these probabilities.
fn pick(parts: &[f64], random: &mut fastrand::Rng) -> usize {
    let mut left = random.f64() * parts.iter().sum::<f64>();
    for (at, part) in parts.iter().enumerate() {
        left -= part;
        if left < 0.0 {
            return at;
        }
    }
    parts.len().saturating_sub(1)
}
