//! The event loop: requests, servers and a balancer on virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::server::{Durations, Effects, Event, Job, Request, Server, Step, Time};

/// One request of the workload.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Time,
    /// The index of the client.
    pub(super) client: usize,
    /// The index of the model.
    pub(super) model: usize,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    /// The ids of the leading blocks of the prompt.
    pub(super) blocks: Arc<[u64]>,
}

/// Decides where requests go.
pub(super) trait Balancer {
    /// A request has arrived.
    fn arrived(&mut self, request: Request, arrival: &Arrival, io: &mut Io<'_>);
    /// A server has sent the first token of a request.
    fn first_token(&mut self, request: Request, io: &mut Io<'_>);
    /// A server has sent the whole response.
    fn done(&mut self, request: Request, durations: Durations, io: &mut Io<'_>);
    /// A server has refused or failed a request before its first token.
    fn failed(&mut self, request: Request, status: u16, io: &mut Io<'_>);
    /// The client of a request without a first token has left.
    fn left(&mut self, request: Request, io: &mut Io<'_>);
    /// A timer is due, with the number it was set with.
    fn timer(&mut self, number: u64, io: &mut Io<'_>);
}

/// What a balancer sees and does.
pub(super) struct Io<'a> {
    pub(super) now: Time,
    /// The servers; what a balancer may read of them is what a real one could learn.
    pub(super) servers: &'a [Server],
    pub(super) workload: &'a [Arrival],
    acts: Vec<Act>,
}

enum Act {
    Send(Request, usize),
    Cancel(Request, usize),
    Fail(Request),
    Timer(Time, u64),
}

impl Io<'_> {
    /// Sends a request to a server.
    pub(super) fn send(&mut self, request: Request, server: usize) {
        self.acts.push(Act::Send(request, server));
    }

    /// Closes the connection of a request to a server.
    pub(super) fn cancel(&mut self, request: Request, server: usize) {
        self.acts.push(Act::Cancel(request, server));
    }

    /// Answers a request with an error.
    pub(super) fn fail(&mut self, request: Request) {
        self.acts.push(Act::Fail(request));
    }

    /// Sets a timer.
    pub(super) fn timer(&mut self, at: Time, number: u64) {
        self.acts.push(Act::Timer(at, number));
    }
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Seconds to the first token; `None` if the request failed or the client gave up.
    pub(super) first_token: Option<f64>,
    /// Whether the request is over for its client.
    is_over: bool,
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) seen: Vec<Seen>,
    /// Loads of all servers.
    pub(super) loads: usize,
    /// The loads but the first one of each server.
    pub(super) swaps: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    Arrives(Request),
    GivesUp(Request),
    Step(usize, Step),
    Timer(u64),
}

/// A time that can be ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
struct At(Time);

impl Eq for At {}
impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The queue of what comes next; equal times keep their order.
#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Reverse<(At, u64, usize)>>,
    entries: Vec<Option<Due>>,
    free: Vec<usize>,
    count: u64,
}

impl Agenda {
    fn add(&mut self, at: Time, due: Due) {
        let entry = match self.free.pop() {
            Some(free) => {
                self.entries[free] = Some(due);
                free
            }
            None => {
                self.entries.push(Some(due));
                self.entries.len() - 1
            }
        };
        self.count += 1;
        self.heap.push(Reverse((At(at), self.count, entry)));
    }

    fn next(&mut self) -> Option<(Time, Due)> {
        let Reverse((At(at), _, entry)) = self.heap.pop()?;
        self.free.push(entry);
        Some((at, self.entries[entry].take()?))
    }
}

/// Runs a workload to its end. Clients give up after `patience` seconds without a first token;
/// `progress` is called now and then with the number of requests that have arrived.
pub(super) fn run(
    servers: Vec<Server>,
    workload: &[Arrival],
    patience: f64,
    balancer: &mut dyn Balancer,
    mut progress: impl FnMut(usize),
) -> Run {
    let mut world = World {
        servers,
        workload,
        agenda: Agenda::default(),
        seen: vec![Seen::default(); workload.len()],
        open: workload.len(),
        patience,
    };
    for server in 0..world.servers.len() {
        let mut effects = Effects::default();
        world.servers[server].begin(&mut effects);
        world.apply(server, effects, 0.0, balancer);
    }
    world.act(0.0, balancer, |balancer, io| balancer.timer(0, io));
    if let Some(first) = workload.first() {
        world.agenda.add(first.at, Due::Arrives(0));
    }
    while world.open > 0 {
        let Some((now, due)) = world.agenda.next() else {
            break;
        };
        if let Due::Arrives(request) = due
            && request % 1024 == 0
        {
            progress(request);
        }
        world.handle(now, due, balancer);
    }
    progress(workload.len());
    let loads = world.servers.iter().map(|server| server.loads);
    Run {
        loads: loads.clone().sum(),
        swaps: loads.map(|loads| loads.saturating_sub(1)).sum(),
        seen: world.seen,
    }
}

struct World<'a> {
    servers: Vec<Server>,
    workload: &'a [Arrival],
    agenda: Agenda,
    seen: Vec<Seen>,
    /// Requests that are not over for their clients.
    open: usize,
    patience: f64,
}

impl World<'_> {
    fn handle(&mut self, now: Time, due: Due, balancer: &mut dyn Balancer) {
        match due {
            Due::Arrives(request) => {
                let next = request + 1;
                if let Some(next_arrival) = self.workload.get(next) {
                    self.agenda.add(next_arrival.at, Due::Arrives(next));
                }
                self.agenda.add(now + self.patience, Due::GivesUp(request));
                let arrival = &self.workload[request];
                self.act(now, balancer, |balancer, io| {
                    balancer.arrived(request, arrival, io);
                });
            }
            Due::GivesUp(request) => {
                if !self.seen[request].is_over {
                    self.over(request, None);
                    self.act(now, balancer, |balancer, io| balancer.left(request, io));
                }
            }
            Due::Timer(number) => {
                self.act(now, balancer, |balancer, io| balancer.timer(number, io))
            }
            Due::Step(server, step) => {
                let mut effects = Effects::default();
                self.servers[server].step(step, now, &mut effects);
                self.apply(server, effects, now, balancer);
            }
        }
    }

    fn over(&mut self, request: Request, first_token: Option<f64>) {
        let seen = &mut self.seen[request];
        if !seen.is_over {
            *seen = Seen {
                first_token,
                is_over: true,
            };
            self.open -= 1;
        }
    }

    /// Lets the balancer act, and carries out what it did.
    fn act(
        &mut self,
        now: Time,
        balancer: &mut dyn Balancer,
        act: impl FnOnce(&mut dyn Balancer, &mut Io<'_>),
    ) {
        let mut io = Io {
            now,
            servers: &self.servers,
            workload: self.workload,
            acts: Vec::new(),
        };
        act(balancer, &mut io);
        for act in io.acts {
            match act {
                Act::Timer(at, number) => self.agenda.add(at, Due::Timer(number)),
                Act::Fail(request) => self.over(request, None),
                Act::Send(request, server) => {
                    let arrival = &self.workload[request];
                    let job = Job {
                        request,
                        model: arrival.model,
                        prompt_tokens: arrival.prompt_tokens,
                        output_tokens: arrival.output_tokens,
                        blocks: arrival.blocks.clone(),
                    };
                    let mut effects = Effects::default();
                    self.servers[server].submit(job, now, &mut effects);
                    self.apply(server, effects, now, balancer);
                }
                Act::Cancel(request, server) => {
                    let mut effects = Effects::default();
                    self.servers[server].cancel(request, now, &mut effects);
                    self.apply(server, effects, now, balancer);
                }
            }
        }
    }

    fn apply(&mut self, server: usize, effects: Effects, now: Time, balancer: &mut dyn Balancer) {
        for (at, step) in effects.steps {
            self.agenda.add(at, Due::Step(server, step));
        }
        for event in effects.events {
            match event {
                Event::FirstToken(request) => {
                    let waited = now - self.workload[request].at;
                    self.over(request, Some(waited));
                    self.act(now, balancer, |balancer, io| {
                        balancer.first_token(request, io)
                    });
                }
                Event::Done(request, durations) => {
                    self.act(now, balancer, |balancer, io| {
                        balancer.done(request, durations, io);
                    });
                }
                Event::Failed(request, status) => {
                    self.act(now, balancer, |balancer, io| {
                        balancer.failed(request, status, io);
                    });
                }
            }
        }
    }
}
