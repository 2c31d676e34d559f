//! A simulated Ollama server on virtual time.
//!
//! It follows the rules of Ollama's scheduler:
//!
//! - A request for a model in memory attaches to it at once and waits for one of its slots. So does
//!   one that arrives while the model is being loaded, when that has ended.
//! - All other requests wait for a load in the order of their arrival. The first one blocks the
//!   others, also those for a model that has come into memory in the meantime.
//! - A model is unloaded when it is idle; until then it gets new requests.
//! - A client that leaves during a load aborts it.

use std::collections::VecDeque;
use std::sync::Arc;

use llamatower_sim::comparison::PREFIX_CACHE;

use super::prefix::PrefixStore;

/// The index of a request in the workload.
pub(super) type Request = usize;
/// The index of a model in the scenario.
pub(super) type Model = usize;
/// Seconds since the begin of the simulation.
pub(super) type Time = f64;

/// The properties of a server.
#[derive(Clone, Debug)]
pub(super) struct ServerSpec {
    /// Prompt tokens in a second.
    pub(super) prefill: f64,
    /// Output tokens of a request in a second.
    pub(super) decode: f64,
    /// Requests of one model that run at once.
    pub(super) slots: usize,
    /// Models in memory at once.
    pub(super) max_loaded: usize,
    /// Seconds of a load.
    pub(super) load: f64,
    pub(super) fault: Fault,
}

/// The prompt tokens of a block of a prefix.
pub(super) const BLOCK_TOKENS: u32 = 512;
/// The most requests that wait for loads; Ollama's own default of `OLLAMA_MAX_QUEUE`.
const MAX_PENDING: usize = 512;
/// The status of a server that refuses requests.
const REFUSED: u16 = 503;

impl ServerSpec {
    /// The seconds until the first token of a request that has a slot, with so many prompt tokens
    /// that are not in the cache.
    pub(super) fn first_token_seconds(&self, prompt_tokens: u32) -> f64 {
        f64::from(prompt_tokens.max(1)) / self.prefill + 1.0 / self.decode
    }

    /// The seconds from the first token to the last one.
    pub(super) fn decode_seconds(&self, output_tokens: u32) -> f64 {
        f64::from(output_tokens.saturating_sub(1)) / self.decode
    }
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// It answers each request with this status at once.
    Status(u16),
    /// It answers no request.
    Hang,
    /// During every second period of so many seconds it answers with 503 at once, also those requests
    /// that wait in it when the period begins.
    Flapping(f64),
}

/// A request as the server sees it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) model: Model,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    /// The leading blocks of the prompt.
    pub(super) blocks: Arc<[u64]>,
}

/// Something that a server will do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// The load of a model ends; the number tells loads apart.
    Loaded(u64),
    /// A request gets its first token; the number tells starts apart.
    FirstToken(Request, u64),
    /// A request has ended.
    Done(Request, u64),
    /// A flapping server begins to refuse requests.
    Outage,
}

/// What happened at a server, for the one who sent the request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    FirstToken(Request),
    Done(Request, Durations),
    Failed(Request, u16),
}

/// The durations in the last line of a response, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Durations {
    pub(super) load: f64,
    pub(super) prompt: f64,
    pub(super) output: f64,
    pub(super) total: f64,
}

#[derive(Debug)]
struct Running {
    job: Job,
    start: u64,
    sent: Time,
    loaded: Time,
    began: Time,
    prompt: f64,
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    sent: Time,
    loaded: Time,
}

#[derive(Debug)]
struct Runner {
    model: Model,
    running: Vec<Running>,
    queue: VecDeque<Waiting>,
    prefixes: PrefixStore,
}

impl Runner {
    fn new(model: Model) -> Self {
        Self {
            model,
            running: Vec::new(),
            queue: VecDeque::new(),
            prefixes: PrefixStore::new((PREFIX_CACHE / BLOCK_TOKENS) as usize),
        }
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }
}

/// A load under way.
#[derive(Debug)]
struct Loading {
    number: u64,
    /// The request that began it, and those for the same model that have arrived since then.
    waiting: VecDeque<Waiting>,
    model: Model,
}

/// A simulated server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) spec: ServerSpec,
    runners: Vec<Runner>,
    /// Requests that need a load, in the order of their arrival.
    pending: VecDeque<Waiting>,
    loading: Option<Loading>,
    numbers: u64,
    /// Loads that were begun.
    pub(super) loads: usize,
}

/// The effects of a call: steps to come, and events for the sender.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) steps: Vec<(Time, Step)>,
    pub(super) events: Vec<Event>,
}

impl Server {
    pub(super) fn new(spec: ServerSpec) -> Self {
        Self {
            spec,
            runners: Vec::new(),
            pending: VecDeque::new(),
            loading: None,
            numbers: 0,
            loads: 0,
        }
    }

    /// A server with a model in memory from the begin.
    pub(super) fn with_model(mut self, model: Model) -> Self {
        self.runners.push(Runner::new(model));
        self
    }

    /// What it does of itself from the begin.
    pub(super) fn begin(&self, effects: &mut Effects) {
        if let Fault::Flapping(period) = self.spec.fault {
            effects.steps.push((period, Step::Outage));
        }
    }

    /// The models in memory.
    pub(super) fn residents(&self) -> impl Iterator<Item = Model> {
        self.runners.iter().map(|runner| runner.model)
    }

    /// Whether a model is in memory.
    pub(super) fn has_in_memory(&self, model: Model) -> bool {
        self.runner(model).is_some()
    }

    /// The prompt tokens of a request that are not in the cache of a model in memory.
    pub(super) fn uncached_tokens(&self, model: Model, tokens: u32, blocks: &[u64]) -> u32 {
        let runner = self.runner(model).map(|at| &self.runners[at]);
        let known = runner.map_or(0, |runner| runner.prefixes.matched(blocks));
        uncached(tokens, known)
    }

    /// Whether it refuses, fails or ignores requests now.
    pub(super) fn is_failing(&self, now: Time) -> bool {
        match self.spec.fault {
            Fault::None => false,
            Fault::Status(_) | Fault::Hang => true,
            Fault::Flapping(period) => (now / period) as u64 % 2 == 1,
        }
    }

    /// A request arrives.
    pub(super) fn submit(&mut self, job: Job, now: Time, effects: &mut Effects) {
        if self.is_failing(now) {
            let status = match self.spec.fault {
                Fault::Status(status) => status,
                Fault::Hang => return,
                Fault::None | Fault::Flapping(_) => REFUSED,
            };
            effects.events.push(Event::Failed(job.request, status));
            return;
        }
        let waiting = Waiting {
            job,
            sent: now,
            loaded: now,
        };
        let model = waiting.job.model;
        let is_it = |loading: &&mut Loading| loading.model == model;
        if let Some(runner) = self.runner(model) {
            self.runners[runner].queue.push_back(waiting);
            self.fill(runner, now, effects);
        } else if let Some(loading) = self.loading.as_mut().filter(is_it) {
            loading.waiting.push_back(waiting);
        } else if self.pending.len() >= MAX_PENDING {
            let refused = Event::Failed(waiting.job.request, REFUSED);
            effects.events.push(refused);
        } else {
            self.pending.push_back(waiting);
            self.advance(now, effects);
        }
    }

    /// The client has left.
    pub(super) fn cancel(&mut self, request: Request, now: Time, effects: &mut Effects) {
        self.pending
            .retain(|waiting| waiting.job.request != request);
        if let Some(mut loading) = self.loading.take() {
            let first = loading.waiting.front();
            let is_aborted = first.is_some_and(|first| first.job.request == request);
            loading
                .waiting
                .retain(|waiting| waiting.job.request != request);
            match is_aborted {
                true => self.pending.extend(loading.waiting),
                false => self.loading = Some(loading),
            }
        }
        for runner in &mut self.runners {
            runner
                .queue
                .retain(|waiting| waiting.job.request != request);
            runner
                .running
                .retain(|running| running.job.request != request);
        }
        for runner in 0..self.runners.len() {
            self.fill(runner, now, effects);
        }
        self.advance(now, effects);
    }

    /// A step is due. Steps of requests that have left do nothing.
    pub(super) fn step(&mut self, step: Step, now: Time, effects: &mut Effects) {
        match step {
            Step::Loaded(number) => self.loaded(number, now, effects),
            Step::FirstToken(request, start) => {
                if let Some((runner, at)) = self.running(request, start) {
                    let runner = &mut self.runners[runner];
                    runner.prefixes.add(&runner.running[at].job.blocks);
                    effects.events.push(Event::FirstToken(request));
                }
            }
            Step::Done(request, start) => {
                let Some((runner, at)) = self.running(request, start) else {
                    return;
                };
                let done = self.runners[runner].running.remove(at);
                let durations = Durations {
                    load: done.loaded - done.sent,
                    prompt: done.prompt,
                    output: now - done.began - done.prompt,
                    total: now - done.sent,
                };
                effects.events.push(Event::Done(request, durations));
                self.fill(runner, now, effects);
                self.advance(now, effects);
            }
            Step::Outage => self.refuse_waiting(now, effects),
        }
    }

    fn refuse_waiting(&mut self, now: Time, effects: &mut Effects) {
        let queued = self.runners.iter_mut();
        let queued = queued.flat_map(|runner| runner.queue.drain(..));
        let loading = self.loading.take().into_iter();
        let waiting = queued
            .chain(loading.flat_map(|loading| loading.waiting))
            .chain(self.pending.drain(..));
        let refused = waiting.map(|waiting| Event::Failed(waiting.job.request, REFUSED));
        effects.events.extend(refused);
        if let Fault::Flapping(period) = self.spec.fault {
            effects.steps.push((now + 2.0 * period, Step::Outage));
        }
    }

    fn runner(&self, model: Model) -> Option<usize> {
        self.runners.iter().position(|runner| runner.model == model)
    }

    fn running(&self, request: Request, start: u64) -> Option<(usize, usize)> {
        let mut runners = self.runners.iter().enumerate();
        runners.find_map(|(at, runner)| {
            let is_it =
                |running: &Running| running.job.request == request && running.start == start;
            Some((at, runner.running.iter().position(is_it)?))
        })
    }

    fn fill(&mut self, runner: usize, now: Time, effects: &mut Effects) {
        let (spec, runner) = (&self.spec, &mut self.runners[runner]);
        while runner.running.len() < spec.slots {
            let Some(waiting) = runner.queue.pop_front() else {
                return;
            };
            let job = &waiting.job;
            let known = runner.prefixes.matched(&job.blocks);
            let tokens = uncached(job.prompt_tokens, known);
            let first = now + spec.first_token_seconds(tokens);
            let done = first + spec.decode_seconds(job.output_tokens);
            self.numbers += 1;
            let (request, start) = (job.request, self.numbers);
            effects
                .steps
                .push((first, Step::FirstToken(request, start)));
            effects.steps.push((done, Step::Done(request, start)));
            runner.running.push(Running {
                start,
                sent: waiting.sent,
                loaded: waiting.loaded,
                began: now,
                prompt: f64::from(tokens) / spec.prefill,
                job: waiting.job,
            });
        }
    }

    /// Serves the requests that need a load, as far as it can: begins the next load, or attaches a
    /// request whose model has come into memory.
    fn advance(&mut self, now: Time, effects: &mut Effects) {
        while self.loading.is_none() {
            let Some(model) = self.pending.front().map(|first| first.job.model) else {
                return;
            };
            let runner = self.runner(model);
            if runner.is_none() && self.runners.len() >= self.spec.max_loaded {
                let Some(idle) = self.runners.iter().position(Runner::is_idle) else {
                    return;
                };
                self.runners.remove(idle);
            }
            let Some(first) = self.pending.pop_front() else {
                return;
            };
            match runner {
                Some(runner) => self.attach(runner, first, now, effects),
                None => self.begin_load(first, now, effects),
            }
        }
    }

    fn attach(&mut self, runner: usize, mut waiting: Waiting, now: Time, effects: &mut Effects) {
        waiting.loaded = now;
        self.runners[runner].queue.push_back(waiting);
        self.fill(runner, now, effects);
    }

    fn begin_load(&mut self, first: Waiting, now: Time, effects: &mut Effects) {
        self.numbers += 1;
        self.loads += 1;
        self.loading = Some(Loading {
            number: self.numbers,
            model: first.job.model,
            waiting: VecDeque::from([first]),
        });
        let at = now + self.spec.load;
        effects.steps.push((at, Step::Loaded(self.numbers)));
    }

    fn loaded(&mut self, number: u64, now: Time, effects: &mut Effects) {
        let is_it = |loading: &mut Loading| loading.number == number;
        let Some(loading) = self.loading.take_if(is_it) else {
            return;
        };
        self.runners.push(Runner::new(loading.model));
        let runner = self.runners.len() - 1;
        for waiting in loading.waiting {
            self.attach(runner, waiting, now, effects);
        }
        self.advance(now, effects);
    }
}

/// The tokens of a prompt that have to be processed: all but those of the blocks in the cache, and
/// at least one.
fn uncached(tokens: u32, known_blocks: usize) -> u32 {
    let known = u32::try_from(known_blocks).unwrap_or(u32::MAX);
    let cached = known.saturating_mul(BLOCK_TOKENS);
    tokens.saturating_sub(cached).max(1)
}
