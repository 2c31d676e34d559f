//! A central queue that knows what no gateway can know: the seconds of each request, the true slots
//! and speed of each server, what is in its memory, and whether it works. It is the line to compare
//! with, and not a proven optimum.
//!
//! With one model, each request waits for the server that sends its first token soonest. A greedy
//! client is served when no other one waits. With more models, a server with a free slot takes the
//! oldest request for its model, and another model is loaded if no other server has it or if too
//! many requests wait for it.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt};

use super::server::{Durations, Model, Request, Time};
use super::workload::GREEDY;
use super::world::{Arrival, Balancer, Io};

/// A model gets another server if more seconds of work than this wait for each of its slots.
const BACKLOG: f64 = 30.0;
/// A model that no server has gets one that is busy after so many load times.
const LOADS_BEFORE_YIELD: f64 = 3.0;
/// But not one that has had its model for less than so many load times.
const LOADS_TO_STAY: f64 = 2.0;
/// While the best server for a request is busy, so many requests are looked at whether another one
/// can begin.
const LOOKED_AT: usize = 64;
/// The interval in which servers and waits are looked at besides, in seconds.
const INTERVAL: Time = 1.0;

/// The central queue.
#[derive(Debug)]
pub(super) struct Central {
    has_greedy_client: bool,
    lines: Vec<Line>,
    places: Vec<Place>,
    sent: HashMap<Request, usize>,
}

/// The requests that wait for a model, in the order in which they are served.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeSet<(bool, Request)>,
    /// The seconds of their work at the fastest server.
    work: f64,
}

/// A server.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The requests in its slots, and when they end.
    ends: Vec<(Request, Time)>,
    resident: Option<Model>,
    loaded_at: Time,
    /// The model to load as soon as it is idle.
    next: Option<Model>,
}

impl Place {
    /// Whether it has the model or will have it.
    fn serves(&self, model: Model) -> bool {
        self.next.or(self.resident) == Some(model)
    }

    fn idle_at(&self) -> Time {
        let ends = self.ends.iter().map(|(_, end)| *end);
        ends.fold(self.loaded_at, f64::max)
    }
}

impl Central {
    /// With a single model, it is in memory from the begin.
    pub(super) fn new(servers: usize, models: usize, has_greedy_client: bool) -> Self {
        let place = Place {
            resident: (models == 1).then_some(0),
            ..Place::default()
        };
        Self {
            has_greedy_client,
            lines: (0..models).map(|_| Line::default()).collect(),
            places: vec![place; servers],
            sent: HashMap::new(),
        }
    }

    fn rank(&self, request: Request, io: &Io<'_>) -> (bool, Request) {
        let is_greedy = io.workload[request].client == GREEDY;
        (self.has_greedy_client && is_greedy, request)
    }

    fn push(&mut self, request: Request, io: &mut Io<'_>) {
        let rank = self.rank(request, io);
        let line = &mut self.lines[io.workload[request].model];
        line.waiting.insert(rank);
        line.work += work(request, io);
        self.dispatch(io);
    }

    /// Whether it waited.
    fn pop(&mut self, request: Request, io: &Io<'_>) -> bool {
        let rank = self.rank(request, io);
        let line = &mut self.lines[io.workload[request].model];
        let waited = line.waiting.remove(&rank);
        if waited {
            line.work -= work(request, io);
        }
        if line.waiting.is_empty() {
            // Without the rounding errors of the sums.
            line.work = 0.0;
        }
        waited
    }

    fn send(&mut self, request: Request, server: usize, io: &mut Io<'_>) {
        self.pop(request, io);
        let begin = io.now.max(self.places[server].loaded_at);
        let (_, end) = times(request, server, begin, io);
        self.places[server].ends.push((request, end));
        self.sent.insert(request, server);
        io.send(request, server);
    }

    /// The server of a request that is over there.
    fn release(&mut self, request: Request) -> Option<usize> {
        let server = self.sent.remove(&request)?;
        self.places[server].ends.retain(|(of, _)| *of != request);
        Some(server)
    }

    fn dispatch(&mut self, io: &mut Io<'_>) {
        if self.lines.len() == 1 {
            return self.serve_soonest(io);
        }
        for server in 0..self.places.len() {
            self.serve_resident(server, io);
        }
        self.choose_loads(io);
        for server in 0..self.places.len() {
            self.begin_load(server, io);
        }
    }

    // One model.

    /// Sends the requests whose best server has a free slot; the others wait for theirs.
    fn serve_soonest(&mut self, io: &mut Io<'_>) {
        let line = self.lines[0].waiting.iter().take(LOOKED_AT);
        let requests: Vec<Request> = line.map(|(_, request)| *request).collect();
        // The slots of servers that requests wait for.
        let mut planned: HashMap<usize, Vec<Time>> = HashMap::new();
        for request in requests {
            let servers = 0..self.places.len();
            let up = servers.filter(|server| !io.servers[*server].is_failing(io.now));
            let choices = up.map(|server| {
                let slots = io.servers[server].spec.slots;
                let begin = match planned.get(&server) {
                    Some(ends) => earliest(ends.iter().copied(), slots, io.now),
                    None => {
                        let ends = self.places[server].ends.iter().map(|(_, end)| *end);
                        earliest(ends, slots, io.now)
                    }
                };
                let (first, end) = times(request, server, begin, io);
                (server, first, end)
            });
            let best = choices.min_by(|a, b| a.1.total_cmp(&b.1));
            let Some((server, _, end)) = best else {
                return;
            };
            // At the end of a request the time has come before the server says so.
            let is_free = self.places[server].ends.len() < io.servers[server].spec.slots;
            if is_free && !planned.contains_key(&server) {
                self.send(request, server, io);
                continue;
            }
            let ends = planned.entry(server).or_insert_with(|| {
                let place = &self.places[server];
                place.ends.iter().map(|(_, end)| *end).collect()
            });
            // It takes the slot that is free first.
            if let Some(first) = ends.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                *first = end;
            }
        }
    }

    // More models than fit into memory.

    /// Fills the slots of a server with requests for its model. One that is to be idle for another
    /// model takes those that end before it is idle anyway.
    fn serve_resident(&mut self, server: usize, io: &mut Io<'_>) {
        let place = &self.places[server];
        let Some(model) = place.resident else { return };
        if place.loaded_at > io.now || io.servers[server].is_failing(io.now) {
            return;
        }
        let idle_at = place.next.map(|_| place.idle_at());
        while self.places[server].ends.len() < io.servers[server].spec.slots {
            let line = self.lines[model].waiting.iter().take(LOOKED_AT);
            let mut requests = line.map(|(_, request)| *request);
            let fits = |request: &Request| {
                let (_, end) = times(*request, server, io.now, io);
                idle_at.is_none_or(|idle_at| end <= idle_at)
            };
            let Some(request) = requests.find(fits) else {
                return;
            };
            self.send(request, server, io);
        }
    }

    /// Decides which servers change their model, for the longest waits first.
    fn choose_loads(&mut self, io: &Io<'_>) {
        let heads = self.lines.iter().enumerate();
        let heads = heads.filter_map(|(model, line)| {
            let (_, request) = line.waiting.first()?;
            Some((*request, model))
        });
        let mut heads: Vec<_> = heads.collect();
        heads.sort_unstable();
        for (request, model) in heads {
            let serving = self.places.iter().enumerate();
            let serving = serving.filter(|(_, place)| place.serves(model));
            let slots = serving.map(|(server, _)| io.servers[server].spec.slots);
            let slots: usize = slots.sum();
            if slots > 0 && self.lines[model].work / slots as f64 <= BACKLOG {
                continue;
            }
            let waited = io.now - io.workload[request].at;
            let may_be_busy = |server: usize| {
                let load = io.servers[server].spec.load;
                let stays_until = self.places[server].loaded_at + LOADS_TO_STAY * load;
                slots == 0 && waited >= LOADS_BEFORE_YIELD * load && io.now >= stays_until
            };
            if let Some(server) = self.victim(model, may_be_busy, io) {
                self.places[server].next = Some(model);
            }
        }
    }

    /// The server that is idle first, of those whose model nobody waits for or others have too.
    fn victim(
        &self,
        model: Model,
        may_be_busy: impl Fn(usize) -> bool,
        io: &Io<'_>,
    ) -> Option<usize> {
        let is_wanted = |place: &Place| {
            let resident = place.resident;
            resident.is_some_and(|model| !self.lines[model].waiting.is_empty())
        };
        let is_only = |place: &Place| {
            let holds = |other: &&Place| place.resident.is_some_and(|of| other.serves(of));
            self.places.iter().filter(holds).count() == 1
        };
        let candidates = self.places.iter().enumerate().filter(|(server, place)| {
            let is_idle = !is_wanted(place) && place.ends.is_empty();
            place.next.is_none()
                && place.loaded_at <= io.now
                && place.resident != Some(model)
                && !io.servers[*server].is_failing(io.now)
                && (is_idle || may_be_busy(*server))
        });
        let ranked = candidates.map(|(server, place)| {
            let why_not = (is_wanted(place) && is_only(place), place.resident.is_some());
            (why_not, place.idle_at(), server)
        });
        let best = ranked.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        best.map(|(_, _, server)| server)
    }

    /// Loads the next model of a server that is idle, with the first request for it.
    fn begin_load(&mut self, server: usize, io: &mut Io<'_>) {
        let place = &mut self.places[server];
        if !place.ends.is_empty() || place.loaded_at > io.now {
            return;
        }
        let Some(model) = place.next.take() else {
            return;
        };
        let Some((_, request)) = self.lines[model].waiting.first().copied() else {
            return;
        };
        place.resident = Some(model);
        place.loaded_at = io.now + io.servers[server].spec.load;
        io.timer(place.loaded_at, 1);
        self.send(request, server, io);
    }
}

/// The seconds of a request at the first server, without a prefix cache.
fn work(request: Request, io: &Io<'_>) -> f64 {
    let (arrival, spec) = (&io.workload[request], &io.servers[0].spec);
    spec.first_token_seconds(arrival.prompt_tokens) + spec.decode_seconds(arrival.output_tokens)
}

/// When a request gets its first token and ends, if it begins at this time.
fn times(request: Request, server: usize, begin: Time, io: &Io<'_>) -> (Time, Time) {
    let (arrival, server) = (&io.workload[request], &io.servers[server]);
    let tokens = server.uncached_tokens(arrival.model, arrival.prompt_tokens, &arrival.blocks);
    let first = begin + server.spec.first_token_seconds(tokens);
    (
        first,
        first + server.spec.decode_seconds(arrival.output_tokens),
    )
}

/// When a slot is free.
fn earliest(ends: impl ExactSizeIterator<Item = Time>, slots: usize, now: Time) -> Time {
    match ends.len() < slots {
        true => now,
        false => ends.fold(f64::INFINITY, f64::min).max(now),
    }
}

impl Balancer for Central {
    fn arrived(&mut self, request: Request, _: &Arrival, io: &mut Io<'_>) {
        self.push(request, io);
    }

    fn first_token(&mut self, _: Request, _: &mut Io<'_>) {}

    fn done(&mut self, request: Request, _: Durations, io: &mut Io<'_>) {
        self.release(request);
        self.dispatch(io);
    }

    fn failed(&mut self, request: Request, _: u16, io: &mut Io<'_>) {
        self.release(request);
        self.push(request, io);
    }

    fn left(&mut self, request: Request, io: &mut Io<'_>) {
        if let Some(server) = self.release(request) {
            io.cancel(request, server);
            let place = &mut self.places[server];
            if place.loaded_at > io.now {
                // The server gives up the load.
                (place.resident, place.loaded_at) = (None, io.now);
            }
        } else {
            self.pop(request, io);
        }
        self.dispatch(io);
    }

    fn timer(&mut self, number: u64, io: &mut Io<'_>) {
        if number == 0 {
            io.timer(io.now + INTERVAL, 0);
        }
        self.dispatch(io);
    }
}
