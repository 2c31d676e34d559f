//! Simple policies to compare with. They send each request at once and try another server after a
//! failure.

use foldhash::HashMap;

use super::server::{Durations, Request};
use super::world::{Arrival, Balancer, Io};

/// So many servers are tried for one request.
pub(super) const ATTEMPTS: usize = 3;

/// How a simple balancer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Random,
    RoundRobin,
    /// The fewest requests in flight; equal servers in turn, in the way of nginx's `least_conn`.
    LeastOutstanding,
    /// A server with the model in memory, and of those the fewest requests in flight.
    WarmFirst,
    /// The one of two random servers with fewer requests in flight.
    TwoChoices,
}

/// A balancer with one simple rule.
#[derive(Debug)]
pub(super) struct Simple {
    rule: Rule,
    /// Seconds to the first byte after which a request is tried elsewhere.
    first_byte: Option<f64>,
    random: fastrand::Rng,
    next: usize,
    in_flight: Vec<usize>,
    /// How long each server has waited for its turn among equal ones.
    overdue: Vec<i64>,
    sent: HashMap<Request, Sent>,
    /// The requests of first-byte clocks, by their timers, with the attempt. The first timer is not
    /// one of them.
    clocks: Vec<(Request, usize)>,
}

#[derive(Debug, Default)]
struct Sent {
    tried: Vec<usize>,
    has_first_token: bool,
}

impl Simple {
    pub(super) fn new(rule: Rule, servers: usize, first_byte: Option<f64>, seed: u64) -> Self {
        Self {
            rule,
            first_byte,
            random: fastrand::Rng::with_seed(seed),
            next: 0,
            in_flight: vec![0; servers],
            overdue: vec![0; servers],
            sent: HashMap::default(),
            clocks: vec![(0, 0)],
        }
    }

    fn choose(&mut self, request: Request, tried: &[usize], io: &Io<'_>) -> usize {
        let all = self.in_flight.len();
        let is_left = |server: &usize| tried.len() >= all || !tried.contains(server);
        if self.rule == Rule::LeastOutstanding {
            return self.least_outstanding(is_left);
        }
        self.next += 1;
        let turn = self.next % all;
        let mut in_turn = (turn..all).chain(0..turn).filter(is_left);
        let in_flight = &self.in_flight;
        let random = &mut self.random;
        let mut any = || loop {
            let server = random.usize(..all);
            if is_left(&server) {
                return server;
            }
        };
        let chosen = match self.rule {
            Rule::Random => Some(any()),
            Rule::RoundRobin | Rule::LeastOutstanding => in_turn.next(),
            Rule::WarmFirst => {
                let model = io.workload[request].model;
                in_turn.min_by_key(|server| {
                    let is_cold = !io.servers[*server].has_in_memory(model);
                    (is_cold, in_flight[*server])
                })
            }
            Rule::TwoChoices => {
                let two = [any(), any()];
                two.into_iter().min_by_key(|server| in_flight[*server])
            }
        };
        chosen.unwrap_or(turn)
    }

    /// Of the servers with the fewest requests in flight the one whose turn is overdue for longest.
    fn least_outstanding(&mut self, is_left: impl Fn(&usize) -> bool) -> usize {
        let left = || (0..self.in_flight.len()).filter(&is_left);
        let least = left().map(|server| self.in_flight[server]).min();
        let (mut equals, mut best) = (0, None);
        for server in left().filter(|server| Some(self.in_flight[*server]) == least) {
            equals += 1;
            let overdue = self.overdue[server] + 1;
            self.overdue[server] = overdue;
            if best.is_none_or(|(most, _)| overdue > most) {
                best = Some((overdue, server));
            }
        }
        let server = best.map_or(0, |(_, server)| server);
        self.overdue[server] -= equals;
        server
    }

    fn send(&mut self, request: Request, mut tried: Vec<usize>, io: &mut Io<'_>) {
        let server = self.choose(request, &tried, io);
        tried.push(server);
        if let Some(limit) = self.first_byte {
            self.clocks.push((request, tried.len()));
            io.timer(io.now + limit, self.clocks.len() as u64 - 1);
        }
        self.in_flight[server] += 1;
        let sent = Sent {
            tried,
            has_first_token: false,
        };
        self.sent.insert(request, sent);
        io.send(request, server);
    }

    fn end(&mut self, request: Request) -> Option<Vec<usize>> {
        let tried = self.sent.remove(&request)?.tried;
        if let Some(server) = tried.last() {
            self.in_flight[*server] -= 1;
        }
        Some(tried)
    }

    fn retry(&mut self, request: Request, io: &mut Io<'_>) {
        match self.end(request) {
            Some(tried) if tried.len() < ATTEMPTS => self.send(request, tried, io),
            _ => io.fail(request),
        }
    }
}

impl Balancer for Simple {
    fn arrived(&mut self, request: Request, _: &Arrival, io: &mut Io<'_>) {
        self.send(request, Vec::new(), io);
    }

    fn first_token(&mut self, request: Request, _: &mut Io<'_>) {
        if let Some(sent) = self.sent.get_mut(&request) {
            sent.has_first_token = true;
        }
    }

    fn done(&mut self, request: Request, _: Durations, _: &mut Io<'_>) {
        self.end(request);
    }

    fn failed(&mut self, request: Request, _: u16, io: &mut Io<'_>) {
        self.retry(request, io);
    }

    fn left(&mut self, request: Request, io: &mut Io<'_>) {
        if let Some(server) = self.end(request).and_then(|tried| tried.last().copied()) {
            io.cancel(request, server);
        }
    }

    fn timer(&mut self, number: u64, io: &mut Io<'_>) {
        let (request, attempt) = self.clocks[number as usize];
        let Some(sent) = self.sent.get(&request) else {
            return;
        };
        if sent.tried.len() != attempt || sent.has_first_token {
            return;
        }
        if let Some(server) = sent.tried.last() {
            io.cancel(request, *server);
        }
        self.retry(request, io);
    }
}
