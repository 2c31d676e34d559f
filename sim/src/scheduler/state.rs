//! The scheduler's state. It does not wait and has no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use super::KeepAlive;
use crate::model::ModelSpec;

/// The options whose change makes Ollama reload a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunnerOptions {
    context_length: u64,
    others: BTreeMap<&'static str, String>,
}

impl RunnerOptions {
    pub(crate) fn new(context_length: u64, others: BTreeMap<&'static str, String>) -> Self {
        Self {
            context_length,
            others,
        }
    }

    pub(crate) fn context_length(&self) -> u64 {
        self.context_length
    }
}

/// A request to the scheduler.
#[derive(Debug)]
pub(crate) struct RunnerRequest {
    /// The name in lists.
    pub(crate) name: String,
    /// The identity of the runner: the digest of the weights.
    pub(crate) runner: String,
    pub(crate) spec: Arc<ModelSpec>,
    pub(crate) options: RunnerOptions,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Whether to wait for a slot too, or only for the load.
    pub(crate) slot: bool,
}

/// The state of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// In the queue of requests that need a load, or at its head and waiting for memory.
    Pending,
    /// Its model is being loaded for another request.
    Waiting,
    /// It is loading its model.
    Loading,
    /// Its model is resident, and it needs no slot.
    Attached,
    /// Its model is resident, and it waits for a slot.
    Queued,
    /// It holds a slot.
    Running,
    /// The queue was full.
    Refused,
}

impl Phase {
    pub(super) fn is_waiting(self) -> bool {
        matches!(self, Self::Pending | Self::Waiting | Self::Queued)
    }
}

struct Entry {
    want: RunnerRequest,
    phase: Phase,
    /// When it could begin: when its model was resident, or when its slot became free.
    since: Instant,
    waker: Option<Waker>,
}

pub(super) struct Runner {
    pub(super) name: String,
    /// The number of its load, from 1.
    load: u64,
    pub(super) options: RunnerOptions,
    pub(super) keep_alive: KeepAlive,
    /// Set while the runner is idle and has a limited keep-alive.
    pub(super) expires_at: Option<Instant>,
    ready: bool,
    /// The runner is unloaded as soon as it is idle.
    leaving: bool,
    slots: usize,
    refs: usize,
    busy: usize,
    queue: VecDeque<u64>,
}

pub(super) struct State {
    max_queue: usize,
    max_loaded: usize,
    /// The keep-alive of a model whose requests set none.
    keep_alive: KeepAlive,
    runners: BTreeMap<String, Runner>,
    pending: VecDeque<u64>,
    head: Option<u64>,
    entries: BTreeMap<u64, Entry>,
    next_id: u64,
    woken: Vec<Waker>,
    pub(super) loads: u64,
    pub(super) loads_aborted: u64,
}

impl State {
    pub(super) fn new(max_queue: usize, max_loaded: usize, keep_alive: KeepAlive) -> Self {
        Self {
            max_queue,
            max_loaded: max_loaded.max(1),
            keep_alive,
            runners: BTreeMap::new(),
            pending: VecDeque::new(),
            head: None,
            entries: BTreeMap::new(),
            next_id: 0,
            woken: Vec::new(),
            loads: 0,
            loads_aborted: 0,
        }
    }

    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn phase(&self, id: u64) -> Option<Phase> {
        self.entries.get(&id).map(|entry| entry.phase)
    }

    /// When a request in a slot could begin.
    pub(super) fn since(&self, id: u64) -> Option<Instant> {
        Some(self.entries.get(&id)?.since)
    }

    /// The number of the load of the model of a request.
    pub(super) fn load_of(&self, id: u64) -> Option<u64> {
        let runner = &self.entries.get(&id)?.want.runner;
        Some(self.runners.get(runner)?.load)
    }

    pub(super) fn set_waker(&mut self, id: u64, waker: &Waker) {
        if let Some(entry) = self.entries.get_mut(&id) {
            match &mut entry.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    pub(super) fn count(&self, phase: Phase) -> usize {
        self.entries.values().filter(|e| e.phase == phase).count()
    }

    pub(super) fn residents(&self) -> impl Iterator<Item = &Runner> {
        self.runners.values().filter(|runner| runner.ready)
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.runners.values().filter_map(|r| r.expires_at).min()
    }

    pub(super) fn enter(&mut self, want: RunnerRequest) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.entries.insert(
            id,
            Entry {
                want,
                phase: Phase::Pending,
                since: Instant::now(),
                waker: None,
            },
        );
        self.place(id);
        self.advance();
        id
    }

    fn set_phase(&mut self, id: u64, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.phase = phase;
            if !phase.is_waiting() {
                self.woken.extend(entry.waker.take());
            }
        }
    }

    /// Attaches a request, or puts it into the right queue.
    fn place(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        match self.runners.get(&entry.want.runner) {
            Some(runner) if runner.options == entry.want.options => {
                if runner.ready {
                    self.attach(id);
                } else {
                    self.set_phase(id, Phase::Waiting);
                }
            }
            _ if self.pending.len() >= self.max_queue && self.head.is_some() => {
                self.set_phase(id, Phase::Refused);
            }
            _ => {
                self.pending.push_back(id);
                self.set_phase(id, Phase::Pending);
            }
        }
    }

    fn attach(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Some(runner) = self.runners.get_mut(&entry.want.runner) else {
            return;
        };
        entry.since = Instant::now();
        runner.refs += 1;
        runner.expires_at = None;
        if let Some(keep_alive) = entry.want.keep_alive {
            runner.keep_alive = keep_alive;
        }
        let phase = if !entry.want.slot {
            Phase::Attached
        } else if runner.busy < runner.slots {
            runner.busy += 1;
            Phase::Running
        } else {
            runner.queue.push_back(id);
            Phase::Queued
        };
        self.set_phase(id, phase);
    }

    /// Advances the queue of loads as far as possible.
    fn advance(&mut self) {
        loop {
            let Some(id) = self.head.or_else(|| self.pending.pop_front()) else {
                return;
            };
            self.head = Some(id);
            let Some(entry) = self.entries.get(&id) else {
                self.head = None;
                continue;
            };
            if entry.phase == Phase::Loading {
                return;
            }
            let key = entry.want.runner.clone();
            let in_the_way = match self.runners.get(&key) {
                Some(runner) if runner.options == entry.want.options => {
                    self.head = None;
                    self.attach(id);
                    continue;
                }
                Some(_) => Some(key.clone()),
                None if self.runners.len() >= self.max_loaded => self.victim(),
                None => None,
            };
            match in_the_way {
                None => return self.begin_load(id, key),
                Some(victim) => {
                    if let Some(runner) = self.runners.get_mut(&victim) {
                        runner.leaving = true;
                        if runner.refs > 0 {
                            return;
                        }
                    }
                    self.runners.remove(&victim);
                }
            }
        }
    }

    /// Chooses the runner to unload: idle first, then the shortest keep-alive, then the path.
    fn victim(&self) -> Option<String> {
        self.runners
            .iter()
            .min_by_key(|(key, runner)| (runner.refs > 0, runner.keep_alive, *key))
            .map(|(key, _)| key.clone())
    }

    fn begin_load(&mut self, id: u64, key: String) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let want = &entry.want;
        self.loads += 1;
        self.runners.insert(
            key,
            Runner {
                name: want.name.clone(),
                load: self.loads,
                options: want.options.clone(),
                keep_alive: want.keep_alive.unwrap_or(self.keep_alive),
                expires_at: None,
                ready: false,
                leaving: false,
                slots: want.spec.slots.max(1),
                refs: 0,
                busy: 0,
                queue: VecDeque::new(),
            },
        );
        self.set_phase(id, Phase::Loading);
    }

    /// The load by this request is complete.
    pub(super) fn loaded(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let key = entry.want.runner.clone();
        if let Some(runner) = self.runners.get_mut(&key) {
            runner.ready = true;
        }
        self.head = None;
        self.attach(id);
        self.replace_waiting(&key);
        self.advance();
    }

    /// Places the requests that waited for a load again, after it has ended or failed.
    fn replace_waiting(&mut self, key: &str) {
        let waiting: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, e)| e.phase == Phase::Waiting && e.want.runner == key)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.place(id);
        }
    }

    /// A request has ended, or its client has disconnected, at this time.
    pub(super) fn leave(&mut self, id: u64, at: Instant) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        let key = entry.want.runner;
        match entry.phase {
            Phase::Refused | Phase::Waiting => {}
            Phase::Pending => {
                self.pending.retain(|other| *other != id);
                self.head = self.head.filter(|head| *head != id);
            }
            Phase::Loading => {
                self.loads_aborted += 1;
                self.runners.remove(&key);
                self.head = None;
                self.replace_waiting(&key);
            }
            Phase::Attached | Phase::Queued | Phase::Running => {
                self.release(id, &key, entry.phase, at);
            }
        }
        self.advance();
    }

    fn release(&mut self, id: u64, key: &str, phase: Phase, at: Instant) {
        let Some(runner) = self.runners.get_mut(key) else {
            return;
        };
        runner.refs -= 1;
        let mut next = None;
        match phase {
            Phase::Queued => runner.queue.retain(|other| *other != id),
            Phase::Running => {
                next = runner.queue.pop_front();
                if next.is_none() {
                    runner.busy -= 1;
                }
            }
            _ => {}
        }
        if runner.refs == 0 {
            match runner.keep_alive {
                _ if runner.leaving => {
                    self.runners.remove(key);
                }
                KeepAlive::Forever => {}
                KeepAlive::For(length) if length.is_zero() => {
                    self.runners.remove(key);
                }
                KeepAlive::For(length) => runner.expires_at = Instant::now().checked_add(length),
            }
        }
        if let Some(next) = next {
            if let Some(entry) = self.entries.get_mut(&next) {
                entry.since = entry.since.max(at);
            }
            self.set_phase(next, Phase::Running);
        }
    }

    pub(super) fn expire(&mut self, key: &str) {
        if let Some(runner) = self.runners.get_mut(key) {
            runner.leaving = true;
            if runner.refs == 0 && runner.ready {
                self.runners.remove(key);
            }
        }
        self.advance();
    }

    pub(super) fn expire_due(&mut self, now: Instant) {
        self.runners
            .retain(|_, runner| runner.expires_at.is_none_or(|at| at > now));
        self.advance();
    }
}
