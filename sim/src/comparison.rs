//! The figures of the fleets and workloads by which routing is compared: on sockets by the race in
//! `benches/race`, and on virtual time by `llamatower simulate`. They have one home so that the
//! results can be compared, too.

use std::collections::HashMap;

/// The prompt tokens that a server at speed 1 processes in a second.
pub const PROMPT_RATE: f64 = 4000.0;
/// The same for the larger model of the scenario with common prefixes.
pub const SLOW_PROMPT_RATE: f64 = 2000.0;
/// The seconds that a server at speed 1 needs for a token of a response.
pub const PACE: f64 = 0.025;
/// The requests of one model that a server runs at once (`OLLAMA_NUM_PARALLEL`).
pub const SLOTS: usize = 4;
/// The seconds of a load.
pub const LOAD_TIME: f64 = 8.0;
/// The part of the fleet's capacity that the requests use.
pub const LOAD: f64 = 0.7;
/// The same where models are loaded again and again, which takes much of the rest.
pub const LOAD_BESIDE_SWAPS: f64 = 0.5;
/// The models where there are more than fit into memory. The n-th one gets a part of the requests
/// in proportion to 1/n.
pub const MODELS: usize = 6;
/// The tokens of recent prompts that a server keeps for the beginnings of others.
pub const PREFIX_CACHE: u32 = 500_000;
/// The seconds for which a client waits for the first token.
pub const PATIENCE: f64 = 300.0;
/// The time-out for the first byte where a server hangs, in seconds.
pub const FIRST_BYTE: f64 = 10.0;
/// Shorter prompts are as long as this, in tokens: the size of an empty request.
pub const SHORTEST_PROMPT: u32 = 48;
/// The part of all requests that a greedy client sends.
pub const GREEDY_PART: f64 = 0.7;
/// The number of the clients beside a greedy one.
pub const OTHER_CLIENTS: usize = 3;
/// The requests that a greedy client sends at once, for each slot of the fleet.
pub const BURST_FOR_EACH_SLOT: usize = 3;
/// The part of a trace that is left out at its begin if the rest is long enough: the rate of a
/// recording often rises there.
pub const BEGIN: f64 = 0.1;

/// About so many requests of a recording with prompts that share their beginnings: all requests of
/// some conversations of the whole recording, so that as many of them have a beginning in common as
/// in all of it. Each round has other conversations. `blocks` are the leading blocks of a prompt.
pub fn conversations<'a, T>(
    requests: &'a [T],
    count: usize,
    round: usize,
    blocks: impl Fn(&T) -> &[u64],
) -> Vec<&'a T> {
    let parts = ((requests.len() as f64 / count.max(1) as f64).round() as usize).max(1);
    let mut numbers = HashMap::new();
    let is_wanted = |request: &&'a T| {
        let blocks = blocks(request);
        // The first block is often the same in all of them.
        let name = blocks.get(1).or(blocks.first()).copied();
        let next = numbers.len();
        let number = *numbers.entry(name).or_insert(next);
        number % parts == round % parts
    };
    requests.iter().filter(is_wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_recording_has_whole_conversations() {
        let requests: Vec<[u64; 2]> = (0..60).map(|at| [0, at % 6]).collect();
        let of = |round| conversations(&requests, 20, round, |blocks| blocks);
        assert_eq!(of(0).len(), 20);
        assert!(of(0).iter().all(|blocks| [0, 3].contains(&blocks[1])));
        assert!(of(1).iter().all(|blocks| [1, 4].contains(&blocks[1])));
        assert_eq!(of(3), of(0));
    }
}
