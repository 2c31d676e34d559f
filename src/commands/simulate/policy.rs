//! The policies that are compared.

use super::central::Central;
use super::gateway::Gateway;
use super::scenario::Scenario;
use super::simple::{Rule, Simple};
use super::workload::CLIENTS;
use super::world::Balancer;

/// A policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyKind {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Gateway,
    Central,
    Simple(Rule),
}

/// All policies.
pub(super) const ALL: [PolicyKind; 7] = [
    PolicyKind {
        name: "gateway",
        about: "the policy and the queue of this gateway, with nothing set",
        kind: Kind::Gateway,
    },
    PolicyKind {
        name: "central",
        about: "a central queue that knows all work, slots and faults (what can be achieved)",
        kind: Kind::Central,
    },
    PolicyKind {
        name: "least-outstanding",
        about: "the server with the fewest requests in flight",
        kind: Kind::Simple(Rule::LeastOutstanding),
    },
    PolicyKind {
        name: "warm-first",
        about: "of the servers with the model in memory the one with the fewest requests",
        kind: Kind::Simple(Rule::WarmFirst),
    },
    PolicyKind {
        name: "two-choices",
        about: "the one of two random servers with fewer requests in flight",
        kind: Kind::Simple(Rule::TwoChoices),
    },
    PolicyKind {
        name: "round-robin",
        about: "the servers in turn",
        kind: Kind::Simple(Rule::RoundRobin),
    },
    PolicyKind {
        name: "random",
        about: "a random server",
        kind: Kind::Simple(Rule::Random),
    },
];

impl PolicyKind {
    /// A balancer with this policy for the servers of a scenario.
    pub(super) fn balancer(
        &self,
        scenario: &Scenario,
        first_byte: Option<f64>,
        seed: u64,
    ) -> Box<dyn Balancer> {
        let (servers, models) = (scenario.servers.len(), scenario.models);
        match self.kind {
            Kind::Gateway => Box::new(Gateway::new(servers, models, CLIENTS, first_byte, seed)),
            Kind::Central => Box::new(Central::new(servers, models, scenario.has_greedy_client)),
            Kind::Simple(rule) => Box::new(Simple::new(rule, servers, first_byte, seed)),
        }
    }
}
