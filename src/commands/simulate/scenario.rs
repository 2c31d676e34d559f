//! The scenarios: fleets, their faults, and how requests are dealt to models and clients.
//!
//! The figures are those of the race in `benches/race`, which measures the same on sockets.

use llamatower_sim::comparison::{
    FIRST_BYTE, LOAD, LOAD_BESIDE_SWAPS, LOAD_TIME, MODELS, PACE, PROMPT_RATE, SLOTS,
    SLOW_PROMPT_RATE,
};

use super::server::{Fault, Server, ServerSpec};
use super::trace::Row;

/// Seconds for which a flapping server answers, and then does not.
const FLAPPING_PERIOD: f64 = 60.0;

/// A fleet and the traffic it gets.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) servers: Vec<ServerSpec>,
    /// The number of models. The n-th one gets a part of the requests in proportion to 1/n. A single
    /// model is in memory from the begin.
    pub(super) models: usize,
    /// Whether one client sends more than all others together.
    pub(super) has_greedy_client: bool,
    /// Whether clients and balancers wait for the first byte no longer than a clock allows.
    pub(super) has_first_byte_clock: bool,
    /// Whether prompts have common prefixes where the trace has none.
    pub(super) shares_prefixes: bool,
    /// The part of the capacity of the servers that work which the requests use.
    pub(super) load: f64,
}

impl Scenario {
    fn new(name: &'static str, about: &'static str, servers: Vec<ServerSpec>) -> Self {
        Self {
            name,
            about,
            servers,
            models: 1,
            has_greedy_client: false,
            has_first_byte_clock: false,
            shares_prefixes: false,
            load: LOAD,
        }
    }

    /// The same with so many servers: the servers of the scenario again and again.
    pub(super) fn with_servers(mut self, count: usize) -> Self {
        self.servers = self.servers.iter().cycle().take(count).cloned().collect();
        self
    }

    /// The servers as they are at the begin.
    pub(super) fn fleet(&self) -> Vec<Server> {
        let new = self.servers.iter().cloned().map(Server::new);
        match self.models {
            1 => new.map(|server| server.with_model(0)).collect(),
            _ => new.collect(),
        }
    }

    /// The requests at speed 1 that the fleet can run at once.
    pub(super) fn capacity(&self) -> f64 {
        let of = |server: &ServerSpec| {
            let working = match server.fault {
                Fault::None => 1.0,
                Fault::Flapping(_) => 0.5,
                Fault::Status(_) | Fault::Hang => 0.0,
            };
            working * server.slots as f64 * server.decode * PACE
        };
        self.servers.iter().map(of).sum()
    }

    /// The seconds of a request at a server at speed 1.
    pub(super) fn seconds_at_speed_1(&self, row: &Row) -> f64 {
        let server = server(1.0);
        let server = match self.shares_prefixes {
            true => with_slow_prompts(server),
            false => server,
        };
        server.first_token_seconds(row.prompt_tokens) + server.decode_seconds(row.output_tokens)
    }

    /// The first-byte clock in seconds, if there is one: 10 s, or more if the longest prompt takes
    /// longer.
    pub(super) fn first_byte_clock(&self, longest_prompt: u32) -> Option<f64> {
        let longest = server(1.0).first_token_seconds(longest_prompt);
        self.has_first_byte_clock
            .then(|| FIRST_BYTE.max((2.0 * longest).ceil()))
    }
}

fn server(speed: f64) -> ServerSpec {
    ServerSpec {
        prefill: speed * PROMPT_RATE,
        decode: speed / PACE,
        slots: SLOTS,
        max_loaded: 1,
        load: LOAD_TIME,
        fault: Fault::None,
    }
}

fn with_slow_prompts(server: ServerSpec) -> ServerSpec {
    ServerSpec {
        prefill: server.prefill * SLOW_PROMPT_RATE / PROMPT_RATE,
        ..server
    }
}

/// Two servers that work, and one with a fault between them.
fn one_of_three(fault: Fault) -> Vec<ServerSpec> {
    let faulty = ServerSpec {
        fault,
        ..server(1.0)
    };
    vec![server(1.0), faulty, server(1.0)]
}

/// All scenarios.
pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "speed-skew",
            "three servers at speeds 1, 1/2 and 1/4",
            vec![server(1.0), server(0.5), server(0.25)],
        ),
        Scenario {
            models: MODELS,
            load: LOAD_BESIDE_SWAPS,
            ..Scenario::new(
                "many-models",
                "four servers with room for one model, six models by Zipf, a load takes 8 s",
                vec![server(1.0); 4],
            )
        },
        Scenario {
            shares_prefixes: true,
            ..Scenario::new(
                "hot-prefix",
                "four servers with prefix caches, prompts that begin alike",
                vec![with_slow_prompts(server(1.0)); 4],
            )
        },
        Scenario {
            has_greedy_client: true,
            ..Scenario::new(
                "greedy-client",
                "three servers, one client sends more than twice as much as the three others; \
                 the times are those of the others",
                vec![server(1.0); 3],
            )
        },
        Scenario::new(
            "healthy",
            "two servers (what the next three compare with)",
            vec![server(1.0); 2],
        ),
        Scenario::new(
            "fast-503",
            "one of three servers answers 503 at once",
            one_of_three(Fault::Status(503)),
        ),
        Scenario::new(
            "fast-500",
            "one of three servers answers 500 at once",
            one_of_three(Fault::Status(500)),
        ),
        Scenario {
            has_first_byte_clock: true,
            ..Scenario::new(
                "hang",
                "one of three servers never answers; a request is sent to another one after a \
                 first-byte clock",
                one_of_three(Fault::Hang),
            )
        },
        Scenario::new(
            "flapping",
            "one of three servers answers 503 during every second minute",
            one_of_three(Fault::Flapping(FLAPPING_PERIOD)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_capacity_is_that_of_the_servers_that_work() {
        let mut names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        let capacity = |name| {
            let found = all().into_iter().find(|scenario| scenario.name == name);
            found.map(|scenario| scenario.capacity())
        };
        assert_eq!(capacity("speed-skew"), Some(7.0));
        assert_eq!(capacity("hang"), Some(8.0));
        assert_eq!(capacity("flapping"), Some(10.0));
    }
}
