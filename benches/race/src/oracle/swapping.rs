//! The central queue for more models than fit into memory.

use std::collections::VecDeque;

use super::{Oracle, healthy};
use crate::scenario::{LOAD_TIME, Scenario, Server};

/// When a server changes its model, in seconds.
#[derive(Clone, Copy, Debug)]
struct Policy {
    /// A request whose model no server has waits so long before a busy server is emptied for it.
    patience: f64,
    /// A model gets another server if its requests would wait longer than this.
    backlog: f64,
}

/// The results of many policies.
pub(super) fn candidates(scenario: &Scenario) -> Vec<Oracle> {
    let mut all = Vec::new();
    for patience in [0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0] {
        for backlog in [4.0, 8.0, 12.0, 16.0, 24.0, 48.0] {
            all.push(Run::new(scenario, Policy { patience, backlog }).run());
        }
    }
    all
}

/// A server during a run.
#[derive(Debug)]
struct Place<'a> {
    server: &'a Server,
    resident: Option<usize>,
    /// The model it is loading, and the end of the load.
    loading: Option<(usize, f64)>,
    /// The model to load as soon as it is idle.
    next: Option<usize>,
    /// The ends of the requests in its slots.
    busy_until: Vec<f64>,
    loads: u64,
}

impl Place<'_> {
    /// Whether it has the model or will have it.
    fn serves(&self, model: usize) -> bool {
        match (self.next, self.loading) {
            (Some(next), _) => next == model,
            (None, Some((loading, _))) => loading == model,
            (None, None) => self.resident == Some(model),
        }
    }

    fn is_settled(&self) -> bool {
        self.next.is_none() && self.loading.is_none()
    }

    fn idle_at(&self) -> f64 {
        self.busy_until.iter().copied().fold(0.0, f64::max)
    }
}

struct Run<'a> {
    scenario: &'a Scenario,
    policy: Policy,
    places: Vec<Place<'a>>,
    /// The waiting jobs of each model.
    waiting: Vec<VecDeque<usize>>,
    arrived: usize,
    first: Vec<f64>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, policy: Policy) -> Self {
        let places = healthy(scenario).into_iter().map(|server| Place {
            server,
            resident: None,
            loading: None,
            next: None,
            busy_until: Vec::new(),
            loads: 0,
        });
        Self {
            scenario,
            policy,
            places: places.collect(),
            waiting: vec![VecDeque::new(); scenario.models],
            arrived: 0,
            first: vec![0.0; scenario.jobs.len()],
        }
    }

    fn run(mut self) -> Oracle {
        let mut now = 0.0;
        loop {
            self.advance(now);
            let Some(next) = self.next_event(now) else {
                break;
            };
            now = next;
        }
        let swaps = self
            .places
            .iter()
            .map(|place| place.loads.saturating_sub(1));
        Oracle {
            swaps: swaps.sum(),
            first: self.first,
        }
    }

    /// The next time at which something can begin.
    fn next_event(&self, now: f64) -> Option<f64> {
        let jobs = &self.scenario.jobs;
        let arrival = jobs.get(self.arrived).map(|job| job.arrival);
        let ends = self
            .places
            .iter()
            .flat_map(|place| &place.busy_until)
            .copied();
        let loads = self
            .places
            .iter()
            .filter_map(|place| place.loading)
            .map(|(_, at)| at);
        let patience = self.waiting.iter().filter_map(|queue| queue.front());
        let patience = patience.map(|at| jobs[*at].arrival + self.policy.patience);
        let times = arrival.into_iter().chain(ends).chain(loads).chain(patience);
        times.filter(|at| *at > now).reduce(f64::min)
    }

    fn advance(&mut self, now: f64) {
        while let Some(job) = self.scenario.jobs.get(self.arrived)
            && job.arrival <= now
        {
            self.waiting[job.model].push_back(self.arrived);
            self.arrived += 1;
        }
        for place in &mut self.places {
            place.busy_until.retain(|end| *end > now);
            if let Some((model, end)) = place.loading
                && end <= now
            {
                place.loading = None;
                place.resident = Some(model);
            }
        }
        self.serve(now);
        self.choose_swaps(now);
        for place in &mut self.places {
            if let Some(next) = place.next
                && place.busy_until.is_empty()
                && place.loading.is_none()
            {
                place.next = None;
                place.resident = None;
                place.loading = Some((next, now + LOAD_TIME / place.server.speed));
                place.loads += 1;
            }
        }
    }

    /// Begins the requests whose model has a free slot. A server that is being emptied takes those
    /// that do not delay that.
    fn serve(&mut self, now: f64) {
        for place in &mut self.places {
            let Some(model) = place.resident.filter(|_| place.loading.is_none()) else {
                continue;
            };
            while place.busy_until.len() < place.server.slots {
                let (server, jobs) = (place.server, &self.scenario.jobs);
                let times = |at: usize| {
                    let begun = now + server.first_token_time(jobs[at].prompt_tokens);
                    (begun, begun + server.decode_time(jobs[at].reply_tokens))
                };
                let empty_at = place.next.map(|_| place.idle_at());
                let fits = |at: &usize| empty_at.is_none_or(|limit| times(*at).1 <= limit);
                let Some(nth) = self.waiting[model].iter().position(fits) else {
                    break;
                };
                let Some(at) = self.waiting[model].remove(nth) else {
                    break;
                };
                let (begun, end) = times(at);
                self.first[at] = begun - jobs[at].arrival;
                place.busy_until.push(end);
            }
        }
    }

    /// The seconds of work that wait for a model.
    fn backlog(&self, model: usize) -> f64 {
        let server = Server::at_speed(1.0);
        let work = self.waiting[model].iter().map(|at| {
            let job = &self.scenario.jobs[*at];
            server.first_token_time(job.prompt_tokens) + server.decode_time(job.reply_tokens)
        });
        work.sum()
    }

    /// Decides which servers change their model, for the longest waiting requests first.
    fn choose_swaps(&mut self, now: f64) {
        let oldest = |run: &Self, model: usize| {
            let at = run.waiting[model].front()?;
            Some(run.scenario.jobs[*at].arrival)
        };
        let mut models: Vec<(f64, usize)> = (0..self.scenario.models)
            .filter_map(|model| Some((oldest(self, model)?, model)))
            .collect();
        models.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (since, model) in models {
            let slots: usize = self
                .places
                .iter()
                .filter(|place| place.serves(model))
                .map(|place| place.server.slots)
                .sum();
            let is_cold = slots == 0;
            if !is_cold && self.backlog(model) / slots as f64 <= self.policy.backlog {
                continue;
            }
            let may_empty = is_cold && now - since >= self.policy.patience;
            if let Some(place) = self.victim(model, may_empty) {
                self.places[place].next = Some(model);
            }
        }
    }

    /// The server that is the first to be idle, of those that nobody waits for, or of all.
    fn victim(&self, model: usize, may_empty: bool) -> Option<usize> {
        let settled = (0..self.places.len()).filter(|at| {
            let place = &self.places[*at];
            place.is_settled() && place.resident != Some(model)
        });
        let is_wanted = |at: usize| {
            let resident = self.places[at].resident;
            resident.is_some_and(|model| !self.waiting[model].is_empty())
        };
        let holders = |at: usize| {
            let resident = self.places[at].resident;
            let holds = |place: &&Place<'_>| resident.is_some_and(|model| place.serves(model));
            self.places.iter().filter(holds).count()
        };
        settled
            .filter(|at| may_empty || (!is_wanted(*at) && self.places[*at].busy_until.is_empty()))
            .min_by(|a, b| {
                let rank = |at: usize| {
                    let is_only = holders(at) == 1;
                    let is_full = self.places[at].resident.is_some();
                    let why_not = (is_wanted(at) && is_only, is_full);
                    (why_not, self.places[at].idle_at())
                };
                let (a, b) = (rank(*a), rank(*b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            })
    }
}
