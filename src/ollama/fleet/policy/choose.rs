//! The choice of a server for one request.

use std::sync::Arc;
use std::time::Duration;

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::cost::{Terms, is_overdue};
use super::decisions::{Considered, DecisionId, Decisions};
use super::lane::{Flight, Lane};
use super::model::Model;
use super::server::Server;
use super::{FlightId, Policy, ServerId};

/// The load of a copy of a model that is in memory elsewhere must save this many times its own
/// time more than it costs, so that small changes of the traffic do not move models.
const SECOND_COPY_MARGIN: f64 = 2.0;
/// A request waits for a better server only if that saves more than the service time of the server
/// that is open, or so many times the geometric mean of both servers' service times: how long
/// another request still takes is not known. The mean counts where the open server is much slower.
const WAIT_SAVES: f64 = 1.5;

/// What a request needs, and its place in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) model: &'a ModelName,
    /// The expected tokens of its prompt.
    pub(crate) prompt_tokens: f64,
    /// The expected tokens of its response; `None` for those that are usual for the model.
    pub(crate) output_tokens: Option<f64>,
    /// The size of the context that it asks for, in tokens.
    pub(crate) num_ctx: Option<u64>,
    /// Whether another `num_ctx` can be sent in its place.
    pub(crate) may_change_num_ctx: bool,
    /// The chained hashes of the leading blocks of its prompt.
    pub(crate) prefix: &'a [u64],
    /// The part of the prompt that these blocks cover, 0 to 1.
    pub(crate) prefix_part: f64,
    /// Whether the response is a stream.
    pub(crate) streams: bool,
    /// The requests that wait for the model, this one included.
    pub(crate) waiting: usize,
    /// Whether it may be sent to find out if a server has one more slot. If not, it waits there, and
    /// not for the next slot of any server.
    pub(crate) may_probe_slots: bool,
    /// The names of the servers that it may be sent to now: those that a request which waits before it
    /// has tried, and cannot use. The others are for that one. `None` if it is the first one.
    pub(crate) only: Option<&'a [Arc<str>]>,
    /// When it arrived.
    pub(crate) since: Instant,
    pub(crate) now: Instant,
}

impl<'a> Ask<'a> {
    /// A streamed request that arrives now while no other one waits, of which nothing but the model
    /// is known.
    pub(crate) fn arriving(model: &'a ModelName, now: Instant) -> Self {
        Self {
            model,
            prompt_tokens: 0.0,
            output_tokens: None,
            num_ctx: None,
            may_change_num_ctx: false,
            prefix: &[],
            prefix_part: 0.0,
            streams: true,
            waiting: 1,
            may_probe_slots: true,
            only: None,
            since: now,
            now,
        }
    }

    fn may_use(&self, server: &Server) -> bool {
        self.only
            .is_none_or(|only| only.contains(&server.spec.name))
    }

    /// The part of the prompt that is probably in the prefix cache of a server.
    pub(super) fn cached_part(&self, lane: &Lane) -> f64 {
        match self.prefix.len() {
            0 => 0.0,
            blocks => self.prefix_part * lane.prefixes.matched(self.prefix) as f64 / blocks as f64,
        }
    }
}

/// The state of a server, best first. A server in a worse state is chosen only if none is in a
/// better one; refusing the request would help no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Availability {
    /// Nothing is wrong with it.
    Healthy,
    /// It has refused or failed requests for this model.
    Avoided,
    /// Its breaker rejects requests.
    BreakerOpen,
    /// It is down.
    Down,
    /// It is down, and its breaker rejects requests.
    DownAndOpen,
}

impl Availability {
    /// A short name for logs and `/status/decisions`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Avoided => "avoided",
            Self::BreakerOpen => "breaker_open",
            Self::Down => "down",
            Self::DownAndOpen => "down_and_breaker_open",
        }
    }
}

/// What the fleet knows of a server besides its cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) availability: Availability,
    /// An earlier attempt of the request went there.
    pub(crate) was_tried: bool,
    /// A request is due there as a trial.
    pub(crate) is_trial: bool,
}

/// The availability of a server and whether it was tried, in one number: the lowest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State(u8);

impl State {
    const BEST: Self = Self(Availability::Healthy as u8);
}

impl View {
    fn state(self) -> State {
        State(((self.availability as u8) << 1) | u8::from(self.was_tried))
    }
}

/// The server of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) server: ServerId,
    pub(crate) flight: FlightId,
    /// It is the trial that was due.
    pub(crate) is_trial: bool,
    /// The number of equally good servers that were not tried.
    pub(crate) untried: usize,
    /// The request loads the model.
    pub(crate) loads: bool,
    /// The server may have to load a model before it can answer.
    pub(crate) may_load: bool,
    /// What the server costs.
    pub(crate) terms: Terms,
    /// The expected time until the first byte of the response; zero while nothing is known.
    pub(crate) first_byte: Duration,
    /// Its entry among the last choices.
    pub(crate) decision: DecisionId,
    /// The `num_ctx` to send.
    pub(crate) num_ctx: Option<u64>,
}

/// The best candidates so far.
#[derive(Default)]
struct Search {
    state: Option<State>,
    untried: usize,
    open: Option<Open>,
    /// The lowest cost of a server that is not open, and its usual seconds of a request.
    closed: Option<(f64, f64)>,
    /// The requests in a second that those servers take over.
    pace: f64,
    /// A server has the model in memory, or loads it, so that the request needs no load.
    has_copy: bool,
}

#[derive(Clone, Copy)]
struct Open {
    terms: Terms,
    total: f64,
    /// The seconds of a load in it.
    load: f64,
    /// Its usual seconds of a request.
    service: f64,
    /// The seconds of work before the first byte.
    before_first_byte: f64,
    /// Its requests in flight with this one and those of others, for its weight: it decides among
    /// equal costs, which is all that is known before the first response.
    crowd: f64,
    server: ServerId,
    view: View,
    loads: bool,
}

impl Search {
    /// Whether a server in this state counts; a better state than before begins anew.
    fn admits(&mut self, view: View) -> bool {
        let state = view.state();
        if self.state.is_some_and(|best| state > best) {
            return false;
        }
        if self.state != Some(state) {
            *self = Self {
                state: Some(state),
                ..Self::default()
            };
        }
        self.untried += usize::from(!view.was_tried);
        true
    }

    /// Whether a sample of the servers says enough: one of them is in the best state and can take the
    /// request. A request that waits already is offered each slot that becomes free.
    fn is_conclusive(&self, ask: &Ask<'_>) -> bool {
        let is_best = self.state == Some(State::BEST);
        is_best && (self.open.is_some() || ask.waiting > 1)
    }

    /// Whether an open server of this cost and crowd is better than those before it.
    fn is_better(&self, total: f64, crowd: f64) -> bool {
        self.open.as_ref().is_none_or(|best| {
            let difference = total - best.total;
            difference < 0.0 || (difference == 0.0 && crowd < best.crowd)
        })
    }
}

impl Policy {
    /// The server of a request, or `None` if it waits. The slot is taken with the choice. `view` is
    /// `None` for a server that must not be used.
    pub(crate) fn choose(
        &mut self,
        ask: &Ask<'_>,
        view: impl Fn(ServerId) -> Option<View>,
    ) -> Option<Grant> {
        let search = self.search(ask, &view);
        let open = search
            .open
            .filter(|open| self.is_worth_it(ask, &search, *open));
        let Some(open) = open else {
            if ask.only.is_some() {
                return None;
            }
            self.note_waiting(ask, |id| {
                let state = view(id).map(View::state);
                state.is_some_and(|state| search.state == Some(state))
            });
            return None;
        };
        let untried = search.untried - usize::from(!open.view.was_tried);
        Some(self.take(ask, open, untried))
    }

    fn search(&mut self, ask: &Ask<'_>, view: impl Fn(ServerId) -> Option<View>) -> Search {
        self.turn = self.turn.wrapping_add(1);
        let Some(model) = self.models.get(ask.model) else {
            return Search::default();
        };
        let sample = self.sampler.sample(model);
        let mut decisions = std::mem::take(&mut self.decisions);
        let search = self.compare(model, ask, view, sample.as_deref(), &mut decisions);
        self.decisions = decisions;
        if let Some(sample) = sample {
            self.sampler.take_back(sample);
        }
        search
    }

    fn compare(
        &self,
        model: &Model,
        ask: &Ask<'_>,
        view: impl Fn(ServerId) -> Option<View>,
        sample: Option<&[usize]>,
        decisions: &mut Decisions,
    ) -> Search {
        decisions.begin();
        let mut search = Search::default();
        if let Some(sample) = sample {
            for at in sample {
                self.examine(model, &model.lanes[*at], ask, &view, &mut search, decisions);
            }
            if search.is_conclusive(ask) {
                // The others take over as many requests as these.
                search.pace *= model.lanes.len() as f64 / sample.len() as f64;
                return search;
            }
            decisions.begin();
            search = Search::default();
        }
        let turn = self.turn % model.lanes.len().max(1);
        for lane in model.lanes[turn..].iter().chain(&model.lanes[..turn]) {
            self.examine(model, lane, ask, &view, &mut search, decisions);
        }
        search
    }

    /// Adds one server to the search.
    fn examine(
        &self,
        model: &Model,
        lane: &Lane,
        ask: &Ask<'_>,
        view: &impl Fn(ServerId) -> Option<View>,
        search: &mut Search,
        decisions: &mut Decisions,
    ) {
        let Some((view, server)) = view(lane.server).zip(self.server(lane.server)) else {
            return;
        };
        if !search.admits(view) {
            return decisions.consider(|| Considered::not_compared(lane.server, view));
        }
        let judged = self.judge(model, lane, server, ask);
        let total = judged.terms.total();
        search.has_copy |= !judged.loads;
        // The slots of a server that is down are not waited for: who holds them may hang, and a request
        // that is sent there fails soon, by its connection or by the clock for such servers.
        let is_open = judged.is_open || view.availability >= Availability::Down;
        let is_open = is_open && ask.may_use(server);
        decisions.consider(|| Considered::compared(lane.server, view, &judged, is_open));
        if is_open {
            let others = f64::from(server.outside.others);
            let crowd = (f64::from(lane.in_flight) + others + 1.0) / server.spec.weight;
            if search.is_better(total, crowd) {
                search.open = Some(Open {
                    terms: judged.terms,
                    total,
                    load: judged.terms.load,
                    service: judged.service,
                    before_first_byte: judged.before_first_byte,
                    crowd,
                    server: lane.server,
                    view,
                    loads: judged.loads,
                });
            }
        } else {
            if search.closed.is_none_or(|(closed, _)| total < closed) {
                search.closed = Some((total, judged.service));
            }
            search.pace += judged.pace;
        }
    }

    /// Whether the best open server is better than to wait for a better one.
    ///
    /// The requests behind this one gain by it too: each of them is served earlier by the time
    /// between two free slots.
    fn is_worth_it(&self, ask: &Ask<'_>, search: &Search, open: Open) -> bool {
        if open.loads && self.is_needed_elsewhere(ask, open.server) {
            return false;
        }
        let Some((closed, service)) = search.closed else {
            return true;
        };
        let Some(model) = self.models.get(ask.model) else {
            return true;
        };
        let load = model.lane(open.server).map_or(0.0, Lane::load_seconds);
        if open.loads && is_overdue(model, load, ask) {
            return true;
        }
        let behind = ask.waiting.saturating_sub(1) as f64;
        let gain = match search.pace {
            pace if pace > 0.0 => behind / pace,
            _ => 0.0,
        };
        let margin = match open.loads && search.has_copy {
            true => SECOND_COPY_MARGIN * open.load,
            false => 0.0,
        };
        let mean = (service * open.service).sqrt();
        let uncertain = open.service.min(WAIT_SAVES * mean);
        open.total + margin <= closed + gain + uncertain
    }

    fn take(&mut self, ask: &Ask<'_>, open: Open, untried: usize) -> Grant {
        let (may_load, num_ctx) = self.expect_of(ask, open.server);
        let first_byte = self.first_byte_of(ask, open, may_load);
        let mut flight = Flight {
            server: open.server,
            sent: ask.now,
            first_byte: None,
            others: 0,
            loads: open.loads,
            loads_at_once: open.loads && self.is_idle(open.server, ask.model),
            streams: ask.streams,
            cached: 0.0,
            looks_waited: None,
            num_ctx,
            is_own: false,
        };
        if open.loads {
            self.begin_load(open.server, ask.model, ask.now);
        }
        if let Some(model) = self.models.get_mut(ask.model) {
            model.count(ask.now);
            model.oldest = None;
            if let Some(lane) = model.lane_mut(open.server) {
                flight.others = lane.in_flight;
                flight.cached = ask.cached_part(lane);
                lane.prefixes.insert(ask.prefix);
                lane.depart(ask.now);
            }
        }
        let chosen = || Considered::open(open.server, open.view, open.terms, open.loads);
        let decision = self.decisions.finish(ask, open.server, chosen);
        Grant {
            server: open.server,
            flight: self.depart(flight),
            is_trial: open.view.is_trial,
            untried,
            loads: open.loads,
            may_load: open.loads || may_load,
            terms: open.terms,
            first_byte,
            decision,
            num_ctx: flight.num_ctx,
        }
    }

    /// The expected time until the first byte of the response.
    fn first_byte_of(&self, ask: &Ask<'_>, open: Open, may_load: bool) -> Duration {
        let mut seconds = open.terms.load + open.terms.wait + open.before_first_byte;
        let lane = self.models.get(ask.model);
        let lane = lane.and_then(|model| model.lane(open.server));
        if let (true, false, Some(lane)) = (may_load, open.loads, lane) {
            seconds += lane.load_seconds();
        }
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// Whether the server may have to load a model first although it seems to have this one in
    /// memory: the model may have left memory since the server listed it, or the server does not
    /// tell and has not answered with it yet. And the `num_ctx` to send.
    fn expect_of(&self, ask: &Ask<'_>, id: ServerId) -> (bool, Option<u64>) {
        let lane = self.models.get(ask.model).and_then(|model| model.lane(id));
        let Some((lane, server)) = lane.zip(self.server(id)) else {
            return (true, ask.num_ctx);
        };
        let may_load = server.loading.is_some() || lane.may_be_cold(ask.now);
        (may_load, lane.plan(ask).num_ctx)
    }

    /// Whether no other model would have to become idle before this one can be loaded.
    fn is_idle(&self, id: ServerId, model: &ModelName) -> bool {
        let (_, victims) = self.victims(id, model);
        victims.iter().all(|victim| {
            let lane = self.models.get(victim).and_then(|model| model.lane(id));
            lane.is_none_or(|lane| lane.in_flight == 0)
        })
    }

    /// Whether the server has a free slot for the model.
    pub(crate) fn has_slot(&self, model: &ModelName, id: ServerId, now: Instant) -> bool {
        let lane = self.models.get(model).and_then(|model| model.lane(id));
        let slots = lane.map(|lane| (lane.in_flight, lane.slots.limit(now).max(1)));
        let is_free = slots.is_some_and(|(taken, limit)| taken < limit);
        is_free && self.server(id).is_some_and(Server::accepts)
    }

    /// Whether this server has the model in memory, as far as the gateway knows.
    #[cfg(test)]
    pub(crate) fn is_resident(&self, model: &ModelName, id: ServerId) -> bool {
        let lane = self.models.get(model).and_then(|model| model.lane(id));
        lane.is_some_and(|lane| matches!(lane.residency, super::Residency::Resident { .. }))
    }

    /// The name of a server in explanations.
    pub(crate) fn name(&self, id: ServerId) -> Option<&Arc<str>> {
        Some(&self.server(id)?.spec.name)
    }
}
