//! The gateway's own policy and queue on virtual time: the same code as in a running gateway. What
//! is written again here is only what the gateway does with sockets and tasks.

use std::time::Duration;

use foldhash::HashMap;
use llamatower_layers::ModelName;
use llamatower_layers::queue::machine::{Charge, ClassQueues, Finished, Passing, Position, Rules};
use llamatower_layers::queue::{Entry, Line};
use llamatower_layers::usage::Usage;
use tokio::time::Instant;

use super::server::{BLOCK_TOKENS, Durations, Request, Time};
use super::simple::ATTEMPTS;
use super::world::{Arrival, Balancer, Io};
use crate::clients::Client;
use crate::ollama::fleet::estimates::{Estimates, Expected, real_cost};
use crate::ollama::fleet::outlier::{ClientLeft, Outcome, Outliers, Reason, Standing};
use crate::ollama::fleet::policy::{
    Ask, Availability, FlightId, Grant, InMemory, Phases, Policy, Report, ServerId, ServerSpec,
    View,
};

/// The interval of probes, as in a gateway with nothing set.
const PROBE_INTERVAL: f64 = 5.0;
/// The number of the timer for probes; first-byte clocks have the numbers after it.
const PROBE: u64 = 0;
/// The size of a model in memory, in bytes: the same for all.
const MODEL_BYTES: u64 = 8_000_000_000;

/// The gateway estimates the tokens of a prompt by its size.
const BYTES_PER_TOKEN: u64 = 4;

/// Without limits: what a client would be refused for is to be seen as a wait.
fn rules() -> Rules {
    let mut rules = Rules::default();
    rules.max_waiting = usize::MAX;
    rules.max_predicted_wait = None;
    rules
}

/// The gateway.
pub(super) struct Gateway {
    /// Seconds to the first byte after which a request is tried elsewhere.
    first_byte: Option<f64>,
    fleet: Fleet,
    policy: Policy,
    queues: ClassQueues<usize, usize, Waits>,
    places: HashMap<Request, Place>,
    /// Requests whose clients have left while they load a model that others wait for.
    orphans: HashMap<Request, Sent>,
    /// The requests of first-byte clocks, by their timers, with the attempt. The timer of the probes
    /// has the first place.
    clocks: Vec<(Request, usize)>,
}

/// The names of models and clients, and what the servers did lately.
struct Fleet {
    /// The time at which the simulation begins; only differences to it count.
    base: Instant,
    models: Vec<ModelName>,
    clients: Vec<Client>,
    outliers: Vec<Outliers>,
    estimates: Estimates,
}

/// A waiting request.
#[derive(Clone, Debug)]
struct Waits {
    request: Request,
    expected: Expected,
    tried: Vec<usize>,
}

/// As in the dispatcher of a running gateway.
struct ByTried;

impl Passing<Waits> for ByTried {
    fn may_be_passed(&self, waits: &Waits) -> bool {
        !waits.tried.is_empty()
    }

    fn can_pass(&self, first: &Waits, waits: &Waits) -> bool {
        waits.tried.is_empty() || first.tried.iter().any(|at| !waits.tried.contains(at))
    }
}

enum Place {
    Waiting(Position<usize>),
    Sent(Sent),
}

#[derive(Clone, Debug)]
struct Sent {
    server: usize,
    flight: FlightId,
    charge: Charge,
    loads: bool,
    is_trial: bool,
    at: Time,
    /// The expected time until the first token.
    expected: Duration,
    first_token: bool,
    tried: Vec<usize>,
}

impl Gateway {
    /// A gateway with nothing set, before so many servers that have all models.
    pub(super) fn new(
        servers: usize,
        models: usize,
        clients: usize,
        first_byte: Option<f64>,
        seed: u64,
    ) -> Self {
        let models = (0..models).filter_map(|model| ModelName::parse(&format!("m{model}")).ok());
        let models: Vec<_> = models.collect();
        let installed = models.iter().map(|model| (model.clone(), MODEL_BYTES));
        let installed: Vec<_> = installed.collect();
        let mut policy = Policy::with_seed(seed);
        for server in 0..servers {
            let id = policy.add_server(ServerSpec::new(format!("server-{server}").into()));
            policy.set_installed(id, &installed);
        }
        let clients = (0..clients).map(|client| Client::Key(format!("client-{client}").into()));
        Self {
            first_byte,
            fleet: Fleet {
                base: Instant::now(),
                models,
                clients: clients.collect(),
                outliers: (0..servers).map(|_| Outliers::default()).collect(),
                estimates: Estimates::default(),
            },
            policy,
            queues: ClassQueues::new(rules()),
            places: HashMap::default(),
            orphans: HashMap::default(),
            clocks: vec![(0, 0)],
        }
    }

    /// Enters the queue, or sends the request at once.
    fn enter(&mut self, request: Request, tried: Vec<usize>, io: &mut Io<'_>) {
        let arrival = &io.workload[request];
        let now = self.fleet.instant(io.now);
        let expected = self.fleet.expected(arrival);
        let waits = Waits {
            request,
            expected,
            tried,
        };
        let entry = Entry::new(arrival.client, waits.clone())
            .with_cost(expected.cost())
            .with_arrival(self.fleet.instant(arrival.at));
        let charge = entry.charge();
        let model = arrival.model;
        let (fleet, policy) = (&self.fleet, &mut self.policy);
        let granted = self.queues.admit(now, &model, &entry, |waits, line| {
            Ok(fleet.choose(policy, waits, None, line, io))
        });
        let queues = &self.queues;
        let is_let_pass = queues.lets_pass(now, &model, &waits, &ByTried);
        match granted {
            Ok(Some(grant)) => self.send(waits, grant, charge, io),
            Ok(None) => match self.queues.push(now, &model, entry) {
                Ok(position) => {
                    self.places.insert(request, Place::Waiting(position));
                    self.note_waiting(model);
                    if is_let_pass {
                        self.hand_out_to(Some(&model), io);
                    }
                }
                Err(_) => io.fail(request),
            },
            Err(_) => io.fail(request),
        }
    }

    fn note_waiting(&mut self, model: usize) {
        let waiting = self.queues.waiting_of(&model);
        self.policy.set_waiting(&self.fleet.models[model], waiting);
    }

    fn send(&mut self, waits: Waits, grant: Grant, charge: Charge, io: &mut Io<'_>) {
        let (server, request) = (grant.server.index(), waits.request);
        let mut tried = waits.tried;
        tried.push(server);
        if grant.is_trial {
            self.fleet.outliers[server].begin_trial(&self.fleet.models[io.workload[request].model]);
        }
        if let Some(limit) = self.first_byte {
            self.clocks.push((request, tried.len()));
            io.timer(io.now + limit, self.clocks.len() as u64 - 1);
        }
        let sent = Sent {
            server,
            flight: grant.flight,
            charge,
            loads: grant.loads,
            is_trial: grant.is_trial,
            at: io.now,
            expected: grant.first_byte,
            first_token: false,
            tried,
        };
        self.places.insert(request, Place::Sent(sent));
        io.send(request, server);
    }

    fn hand_out(&mut self, io: &mut Io<'_>) {
        self.hand_out_to(None, io);
    }

    fn hand_out_to(&mut self, only: Option<&usize>, io: &mut Io<'_>) {
        let now = self.fleet.instant(io.now);
        let fleet = &self.fleet;
        // Both closures of a round change the policy, one after the other.
        let policy = std::cell::RefCell::new(&mut self.policy);
        let mut grants = Vec::new();
        self.queues.hand_out_past(
            now,
            only,
            &ByTried,
            |_, waits: &Waits, first, line| {
                Ok(fleet.choose(&mut policy.borrow_mut(), waits, first, line, io))
            },
            |delivery| {
                let model = &fleet.models[*delivery.class];
                policy.borrow_mut().set_waiting(model, delivery.waiting);
                if let Ok(grant) = delivery.answer {
                    grants.push((delivery.waiter.request, grant, delivery.waiter.charge));
                }
            },
        );
        for (waits, grant, charge) in grants {
            self.send(waits, grant, charge, io);
        }
    }

    /// Ends a request that was sent; `durations` are those of a whole response.
    fn end(&mut self, request: Request, sent: &Sent, durations: Option<Durations>, io: &Io<'_>) {
        let (arrival, now) = (&io.workload[request], self.fleet.instant(io.now));
        let model = &self.fleet.models[arrival.model];
        let report = durations.map(|durations| Report {
            prompt_tokens: u64::from(arrival.prompt_tokens),
            output_tokens: u64::from(arrival.output_tokens),
            phases: Some(Phases {
                load: Duration::from_secs_f64(durations.load.max(0.0)),
                prompt: Duration::from_secs_f64(durations.prompt.max(0.0)),
                output: Duration::from_secs_f64(durations.output.max(0.0)),
                total: Duration::from_secs_f64(durations.total.max(0.0)),
            }),
        });
        self.policy.end(model, sent.flight, report, now);
        if sent.is_trial {
            self.fleet.outliers[sent.server].end_trial(model);
        }
        let held = Duration::from_secs_f64(io.now - sent.at);
        let finished = match durations {
            Some(_) => {
                let cost = self.fleet.learn_cost(arrival);
                Finished::after(held).with_cost(cost)
            }
            None if sent.first_token => Finished::after(held),
            None => Finished::unused(),
        };
        self.queues
            .finish(&arrival.model, &arrival.client, sent.charge, finished);
    }

    fn record(&self, request: Request, server: usize, outcome: Outcome, io: &Io<'_>) {
        let model = &self.fleet.models[io.workload[request].model];
        self.fleet.outliers[server].record(model, outcome, self.fleet.instant(io.now));
    }

    fn tell_residents(&mut self, server: usize, io: &Io<'_>) {
        let now = self.fleet.instant(io.now);
        let rows: Vec<_> = io.servers[server]
            .residents()
            .map(|model| InMemory {
                model: self.fleet.models[model].clone(),
                bytes: MODEL_BYTES,
                context: None,
                expires: now.checked_add(Duration::from_secs(300)),
            })
            .collect();
        let id = ServerId::from_index(server);
        self.policy.set_residents(id, Some(&rows), now, now);
    }

    fn retry(&mut self, request: Request, sent: Sent, io: &mut Io<'_>) {
        self.end(request, &sent, None, io);
        if sent.tried.len() < ATTEMPTS {
            self.enter(request, sent.tried, io);
        } else {
            io.fail(request);
        }
        self.hand_out(io);
    }

    fn probe(&mut self, io: &mut Io<'_>) {
        let now = self.fleet.instant(io.now);
        for server in 0..io.servers.len() {
            self.tell_residents(server, io);
            // The gateway's own trial of a model with which the server was silent.
            if let Some((model, pause)) = self.fleet.outliers[server].next_silent(now, &[])
                && pause.is_zero()
            {
                let outcome = match io.servers[server].is_failing(io.now) {
                    true => Outcome::Bad(Reason::Silent, None),
                    false => Outcome::GoodTrial,
                };
                self.fleet.outliers[server].record(&model, outcome, now);
            }
        }
        self.hand_out(io);
        io.timer(io.now + PROBE_INTERVAL, PROBE);
    }
}

impl Fleet {
    fn instant(&self, at: Time) -> Instant {
        self.base + Duration::from_secs_f64(at)
    }

    fn expected(&self, arrival: &Arrival) -> Expected {
        let bytes = BYTES_PER_TOKEN * u64::from(arrival.prompt_tokens);
        let (model, client) = (&self.models[arrival.model], &self.clients[arrival.client]);
        self.estimates.expected(Some(model), Some(client), bytes)
    }

    /// The cost of a request that has ended, from which later estimates are learned.
    fn learn_cost(&self, arrival: &Arrival) -> u32 {
        let bytes = BYTES_PER_TOKEN * u64::from(arrival.prompt_tokens);
        let (model, client) = (&self.models[arrival.model], &self.clients[arrival.client]);
        let mut usage = Usage::default();
        usage.prompt_tokens = u64::from(arrival.prompt_tokens);
        usage.output_tokens = u64::from(arrival.output_tokens);
        self.estimates.record(model, Some(client), bytes, &usage);
        real_cost(&usage)
    }

    /// The server of a request, of those that the `first` one has tried if it passes that one.
    fn choose(
        &self,
        policy: &mut Policy,
        waits: &Waits,
        first: Option<&Waits>,
        line: Line,
        io: &Io<'_>,
    ) -> Option<Grant> {
        let name = |at: &usize| policy.name(ServerId::from_index(*at)).cloned();
        let only: Option<Vec<_>> = first.map(|first| first.tried.iter().filter_map(name).collect());
        let arrival = &io.workload[waits.request];
        let model = &self.models[arrival.model];
        let covered = f64::from(BLOCK_TOKENS) * arrival.blocks.len() as f64;
        let ask = Ask {
            model,
            prompt_tokens: waits.expected.prompt_tokens,
            output_tokens: Some(waits.expected.output_tokens),
            num_ctx: None,
            may_change_num_ctx: false,
            prefix: &arrival.blocks,
            prefix_part: (covered / f64::from(arrival.prompt_tokens.max(1))).min(1.0),
            streams: true,
            waiting: line.waiting,
            may_probe_slots: line.has_average_backlog(),
            only: only.as_deref(),
            since: line.since,
            now: line.now,
        };
        policy.choose(&ask, |id| {
            let at = id.index();
            let standing = self.outliers.get(at)?.standing(model, line.now);
            let standing = standing.for_attempt(!waits.tried.is_empty());
            Some(View {
                availability: match standing {
                    Standing::Avoided => Availability::Avoided,
                    Standing::Normal | Standing::TrialDue => Availability::Healthy,
                },
                was_tried: waits.tried.contains(&at),
                is_trial: standing == Standing::TrialDue,
            })
        })
    }
}

impl Balancer for Gateway {
    fn arrived(&mut self, request: Request, _: &Arrival, io: &mut Io<'_>) {
        self.enter(request, Vec::new(), io);
    }

    fn first_token(&mut self, request: Request, io: &mut Io<'_>) {
        let now = self.fleet.instant(io.now);
        let model = self.fleet.models[io.workload[request].model].clone();
        if let Some(orphan) = self.orphans.remove(&request) {
            self.policy.first_byte(&model, orphan.flight, now);
            self.end(request, &orphan, None, io);
            io.cancel(request, orphan.server);
            self.tell_residents(orphan.server, io);
            self.hand_out(io);
            return;
        }
        let Some(Place::Sent(sent)) = self.places.get_mut(&request) else {
            return;
        };
        sent.first_token = true;
        let (server, flight, loads) = (sent.server, sent.flight, sent.loads);
        self.policy.first_byte(&model, flight, now);
        self.record(request, server, Outcome::Good, io);
        if loads {
            self.tell_residents(server, io);
        }
        self.hand_out(io);
    }

    fn done(&mut self, request: Request, durations: Durations, io: &mut Io<'_>) {
        if let Some(Place::Sent(sent)) = self.places.remove(&request) {
            self.end(request, &sent, Some(durations), io);
            self.hand_out(io);
        }
    }

    fn failed(&mut self, request: Request, status: u16, io: &mut Io<'_>) {
        let Some(Place::Sent(sent)) = self.places.remove(&request) else {
            return;
        };
        let reason = match status {
            503 | 429 => Reason::Busy,
            _ => Reason::Failing,
        };
        self.record(request, sent.server, Outcome::Bad(reason, None), io);
        self.retry(request, sent, io);
    }

    fn left(&mut self, request: Request, io: &mut Io<'_>) {
        match self.places.remove(&request) {
            Some(Place::Waiting(position)) => {
                let model = io.workload[request].model;
                self.queues.remove(&model, &position);
                self.note_waiting(model);
            }
            Some(Place::Sent(sent)) => {
                let model = io.workload[request].model;
                if sent.loads && self.queues.waiting_of(&model) > 0 {
                    self.orphans.insert(request, sent);
                    return;
                }
                let client = io.workload[request].client;
                let left = ClientLeft {
                    client: Some(self.fleet.clients[client].clone()),
                    waited: Duration::from_secs_f64(io.now - sent.at),
                    expected: sent.expected,
                };
                self.record(request, sent.server, Outcome::ClientLeft(left), io);
                self.end(request, &sent, None, io);
                io.cancel(request, sent.server);
            }
            None => return,
        }
        self.hand_out(io);
    }

    fn timer(&mut self, number: u64, io: &mut Io<'_>) {
        if number == PROBE {
            return self.probe(io);
        }
        let (request, attempt) = self.clocks[number as usize];
        let is_late = |place: &Place| matches!(place, Place::Sent(sent) if !sent.first_token && sent.tried.len() == attempt);
        if !self.places.get(&request).is_some_and(is_late) {
            return;
        }
        if let Some(Place::Sent(sent)) = self.places.remove(&request) {
            self.record(request, sent.server, Outcome::Bad(Reason::Silent, None), io);
            io.cancel(request, sent.server);
            self.retry(request, sent, io);
        }
    }
}
