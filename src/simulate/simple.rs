//! Simple policies to compare with. They send each request at once and try another server after a
//! failure.

use foldhash::HashMap;

use super::server::{Durations, Request};
use super::world::{Arrival, Balancer, Io};

/// So many servers are tried for one request.
const ATTEMPTS: usize = 3;

/// How a simple balancer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Random,
    RoundRobin,
    /// The fewest requests in flight.
    LeastOutstanding,
    /// A server with the model in memory, and of those the fewest requests in flight.
    WarmFirst,
    /// The better of two random servers.
    TwoChoices,
}

/// A balancer with one simple rule.
#[derive(Debug)]
pub(super) struct Simple {
    rule: Rule,
    random: fastrand::Rng,
    next: usize,
    in_flight: Vec<usize>,
    sent: HashMap<Request, Vec<usize>>,
}

impl Simple {
    pub(super) fn new(rule: Rule, servers: usize, seed: u64) -> Self {
        Self {
            rule,
            random: fastrand::Rng::with_seed(seed),
            next: 0,
            in_flight: vec![0; servers],
            sent: HashMap::default(),
        }
    }

    fn choose(&mut self, request: Request, tried: &[usize], io: &Io<'_>) -> usize {
        let all = self.in_flight.len();
        let left: Vec<usize> = (0..all).filter(|server| !tried.contains(server)).collect();
        let left = match left.is_empty() {
            true => (0..all).collect(),
            false => left,
        };
        self.next += 1;
        let turn = self.next % left.len();
        let in_turn = left[turn..].iter().chain(&left[..turn]).copied();
        let least = |server: &usize| self.in_flight[*server];
        match self.rule {
            Rule::Random => left[self.random.usize(..left.len())],
            Rule::RoundRobin => left[turn],
            Rule::LeastOutstanding => in_turn.min_by_key(least).unwrap_or(0),
            Rule::WarmFirst => {
                let model = io.workload[request].model;
                let is_cold = |server: usize| !io.servers[server].residents().any(|of| of == model);
                in_turn
                    .min_by_key(|server| (is_cold(*server), self.in_flight[*server]))
                    .unwrap_or(0)
            }
            Rule::TwoChoices => {
                let one = left[self.random.usize(..left.len())];
                let other = left[self.random.usize(..left.len())];
                match self.in_flight[one] <= self.in_flight[other] {
                    true => one,
                    false => other,
                }
            }
        }
    }

    fn send(&mut self, request: Request, tried: Vec<usize>, io: &mut Io<'_>) {
        let server = self.choose(request, &tried, io);
        let mut tried = tried;
        tried.push(server);
        self.in_flight[server] += 1;
        self.sent.insert(request, tried);
        io.send(request, server);
    }

    fn end(&mut self, request: Request) -> Option<Vec<usize>> {
        let tried = self.sent.remove(&request)?;
        if let Some(server) = tried.last() {
            self.in_flight[*server] -= 1;
        }
        Some(tried)
    }
}

impl Balancer for Simple {
    fn arrived(&mut self, request: Request, _: &Arrival, io: &mut Io<'_>) {
        self.send(request, Vec::new(), io);
    }

    fn first_token(&mut self, _: Request, _: &mut Io<'_>) {}

    fn done(&mut self, request: Request, _: Durations, _: &mut Io<'_>) {
        self.end(request);
    }

    fn failed(&mut self, request: Request, _: u16, io: &mut Io<'_>) {
        match self.end(request) {
            Some(tried) if tried.len() < ATTEMPTS => self.send(request, tried, io),
            _ => io.fail(request),
        }
    }

    fn left(&mut self, request: Request, io: &mut Io<'_>) {
        if let Some(server) = self.end(request).and_then(|tried| tried.last().copied()) {
            io.cancel(request, server);
        }
    }

    fn timer(&mut self, _: u64, _: &mut Io<'_>) {}
}
