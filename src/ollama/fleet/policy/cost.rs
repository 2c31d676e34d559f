//! The expected seconds until a server has answered a request.

use tokio::time::Instant;

use super::choose::Ask;
use super::lane::{Lane, seconds};
use super::memory::{Load, Room};
use super::model::Model;
use super::server::Server;
use super::{Policy, Residency, ServerId};

/// A model that was unloaded is loaded again if it is asked for within this many of its load times.
const HORIZON: f64 = 8.0;
/// The part of such a load that counts as the cost of unloading. It is not all of it, because the
/// load is later, and may find a server that is idle anyway.
const HARM: f64 = 0.3;
/// The same if another server has the model in memory too.
const HARM_WITH_COPY: f64 = 0.1;
/// How many loads the unloading of a pinned model costs: the gateway loads it again in any case, and
/// the operator wants it to be there meanwhile.
const HARM_TO_PINNED: f64 = 2.0;
/// The part of that cost which counts while it is not known whether both have room.
const HARM_IF_UNKNOWN: f64 = 0.5;
/// How much longer a request takes beside as many others as there are slots: 0.5 means half as long
/// again. The slots of a server share its GPU.
const CONTENTION: f64 = 0.5;
/// A model rests for the load of another one no longer than this many load times.
pub(super) const LONGEST_REST: f64 = 20.0;
/// A request that is sent to find out whether a server has one more slot waits there for this part
/// of a service time, as is to be expected.
const UNPROVEN_SLOT: f64 = 0.5;
/// A model in memory makes room for one that waits only after this many load times, and only if the
/// other has waited as long. At 8, loads take a ninth of the time at most while all models have
/// more requests than the servers can serve.
pub(super) const LOADS_BEFORE_YIELD: f64 = 8.0;

/// The terms of the cost of one server, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// The time until the model is in memory, and the harm to requests for the model that has to
    /// go.
    pub load: f64,
    /// The time until a slot is free.
    pub wait: f64,
    /// The time to process the prompt and to generate the response.
    pub work: f64,
    /// The part of the work that the prefix cache saves; not positive.
    pub affinity: f64,
}

impl Terms {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.load + self.wait + self.work + self.affinity
    }
}

/// What one server would cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judgement {
    pub(super) terms: Terms,
    /// The request can be sent now.
    pub(super) is_open: bool,
    /// The request would load the model.
    pub(super) loads: bool,
    /// The requests in a second that a server which is not open will take over; infinite if it is
    /// not known.
    pub(super) pace: f64,
    /// The usual seconds of a request of this model there.
    pub(super) service: f64,
    /// The part of the work that is done before the first byte of the response, without the savings
    /// by the prefix cache.
    pub(super) before_first_byte: f64,
}

impl Policy {
    /// The cost of a request at one server.
    pub(super) fn judge(
        &self,
        model: &Model,
        lane: &Lane,
        server: &Server,
        ask: &Ask<'_>,
    ) -> Judgement {
        let service = service_seconds(model, lane, server);
        let at_once = lane.slots.at_once(ask.now);
        let (prompt, output, affinity) = work(model, lane, server, ask);
        let beside = lane.in_flight.saturating_add(server.outside.others);
        let contention = CONTENTION * f64::from(beside.min(at_once)) / f64::from(at_once);
        // A response that is no stream begins at its end.
        let first = if ask.streams { prompt } else { prompt + output };
        let mut judgement = Judgement {
            terms: Terms {
                load: 0.0,
                wait: 0.0,
                work: (prompt + output) * (1.0 + contention),
                affinity,
            },
            is_open: false,
            loads: false,
            pace: f64::from(at_once) / service,
            service,
            before_first_byte: first * (1.0 + contention),
        };
        match lane.residency {
            Residency::Loading(since) => {
                let load = lane.load_seconds();
                judgement.terms.load = (load - seconds(since, ask.now)).max(0.1 * load);
                judgement.terms.wait = service;
            }
            // With another context. The server waits until the model is idle.
            Residency::Resident { .. } if lane.plan(ask).reloads => {
                judgement.loads = true;
                self.judge_load(model, lane, server, ask, &mut judgement);
                judgement.is_open &= lane.in_flight == 0;
                judgement.terms.wait += lane.until_idle(service);
                judgement.terms.load += harm_of(model, lane, ask.now);
            }
            Residency::Unknown | Residency::Resident { .. } => {
                self.judge_resident(lane, server, ask, &mut judgement);
            }
            // It was sent before the server told what it has in memory, and loads the model.
            Residency::Cold if lane.in_flight > 0 => {
                judgement.terms.load = lane.load_seconds();
                judgement.terms.wait = service;
            }
            Residency::Cold => {
                judgement.loads = true;
                self.judge_load(model, lane, server, ask, &mut judgement);
            }
        }
        if judgement.is_open && lane.is_full_elsewhere {
            judgement.is_open = false;
            let until_free = lane.until_free(ask.now, service);
            judgement.terms.wait = judgement.terms.wait.max(until_free);
        }
        judgement
    }

    /// The cost at a server that has the model in memory, as far as is known.
    fn judge_resident(
        &self,
        lane: &Lane,
        server: &Server,
        ask: &Ask<'_>,
        judgement: &mut Judgement,
    ) {
        let service = judgement.service;
        let at_once = lane.slots.at_once(ask.now);
        let is_resting = lane.is_resting(ask.now) || self.load_is_late(server, lane, ask);
        let is_proven = lane.in_flight < lane.slots.known();
        judgement.is_open = lane.in_flight < lane.slots.limit(ask.now).max(1)
            && (is_proven || ask.may_probe_slots || !lane.slots.is_certain())
            && server.accepts()
            && !is_resting;
        if is_resting {
            judgement.terms.load = lane.load_seconds();
            judgement.pace = 0.0;
        }
        if !judgement.is_open || lane.in_flight >= at_once {
            // Without a limit, it would wait in the server.
            judgement.terms.wait = lane.until_free(ask.now, service);
        } else if !is_proven {
            // Whether there is one more slot is not known yet.
            judgement.terms.wait = UNPROVEN_SLOT * service;
        }
        let outside = server.wait_for_others(at_once, service);
        judgement.terms.wait = judgement.terms.wait.max(outside);
    }

    /// The cost at a server that has to load the model.
    fn judge_load(
        &self,
        model: &Model,
        lane: &Lane,
        server: &Server,
        ask: &Ask<'_>,
        judgement: &mut Judgement,
    ) {
        let load = lane.load_seconds();
        judgement.terms.load = load;
        judgement.pace = 0.0;
        if let Some((loading, since)) = &server.loading {
            // Ollama loads one model at a time.
            let other = self.models.get(loading);
            let other = other.and_then(|other| other.lane(lane.server));
            let other = other.map_or(load, Lane::load_seconds);
            judgement.terms.wait = (other - seconds(*since, ask.now)).max(0.1 * other);
            return;
        }
        let is_overdue = is_overdue(model, load, ask);
        // Ollama unloads an idle model first. Which of several it is, is not known.
        let mut others = Load::default();
        let (mut least_wait, mut least_harm) = (f64::INFINITY, f64::INFINITY);
        let (mut harm, mut idle) = (0.0, 0);
        let mut may_go = false;
        for name in server.residents.iter().filter(|name| *name != ask.model) {
            let known = self.models.get(name);
            let Some((victim, of)) =
                known.and_then(|known| Some((known, known.lane(lane.server)?)))
            else {
                others = others.with(0);
                continue;
            };
            others = others.with(of.bytes);
            let own_harm = harm_of_unload(victim, of, ask.now);
            least_harm = least_harm.min(own_harm);
            if of.in_flight > 0 {
                let service = service_seconds(victim, of, server);
                least_wait = least_wait.min(of.until_idle(service));
                continue;
            }
            harm += own_harm;
            idle += 1;
            may_go |= victim.waiting == 0 || (is_overdue && has_had_its_time(of, load, ask.now));
        }
        let room = server.room_for(others, lane.bytes);
        let part = match room {
            Room::Free => {
                judgement.is_open = server.accepts();
                return;
            }
            Room::Unknown => HARM_IF_UNKNOWN,
            Room::Full => 1.0,
        };
        if idle == 0 {
            judgement.terms.wait = least_wait;
            judgement.terms.load += part * least_harm;
            if room == Room::Unknown {
                // It is as likely that nothing has to be unloaded.
                judgement.terms.wait *= HARM_IF_UNKNOWN;
                judgement.is_open = server.accepts();
            }
            return;
        }
        judgement.terms.load += part * harm / f64::from(idle);
        judgement.is_open = may_go && server.accepts();
    }

    /// Whether a load on the server takes so long that it probably waits until another model is
    /// idle.
    fn load_is_late(&self, server: &Server, lane: &Lane, ask: &Ask<'_>) -> bool {
        let Some((loading, since)) = &server.loading else {
            return false;
        };
        let other = self.models.get(loading);
        let other = other.and_then(|other| other.lane(lane.server));
        other.is_some_and(|other| {
            let usual = other.load_seconds();
            let late = seconds(*since, ask.now) - usual;
            late > usual && late < LONGEST_REST * usual
        })
    }

    pub(super) fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(id.0 as usize)?.as_ref()
    }
}

/// Whether a request for a model that is in no memory has waited so long that another model must
/// make room.
pub(super) fn is_overdue(model: &Model, load: f64, ask: &Ask<'_>) -> bool {
    model.copies().is_empty() && seconds(ask.since, ask.now) >= LOADS_BEFORE_YIELD * load
}

/// Whether a model was in memory long enough for its load to be worth it.
pub(super) fn has_had_its_time(lane: &Lane, load: f64, now: Instant) -> bool {
    let since = lane.resident_since;
    since.is_none_or(|since| seconds(since, now) >= LOADS_BEFORE_YIELD * load)
}

/// The expected cost of unloading a model for another one.
fn harm_of_unload(model: &Model, lane: &Lane, now: Instant) -> f64 {
    match lane.is_pinned {
        true => HARM_TO_PINNED * lane.load_seconds(),
        false => harm_of(model, lane, now),
    }
}

/// The expected cost for later requests while a model is not in memory.
fn harm_of(model: &Model, lane: &Lane, now: Instant) -> f64 {
    let part = match model.copies().len() {
        0 | 1 => HARM,
        _ => HARM_WITH_COPY,
    };
    let load = lane.load_seconds();
    part * load * model.probability_within(HORIZON * load, now)
}

/// The expected seconds of a request of this model.
pub(super) fn service_seconds(model: &Model, lane: &Lane, server: &Server) -> f64 {
    let own = lane.rates.service.get();
    let usual = || model.service.get().map(|of| of / server.spec.weight);
    own.or_else(usual).unwrap_or(0.0)
}

/// The seconds of the prompt, those of the response, and what the prefix cache saves.
fn work(model: &Model, lane: &Lane, server: &Server, ask: &Ask<'_>) -> (f64, f64, f64) {
    let weight = server.spec.weight;
    let usual = |of: super::average::Average| of.get().map(|rate| rate * weight);
    let prefill = lane.rates.prefill.get().or_else(|| usual(model.prefill));
    let decode = lane.rates.decode.get().or_else(|| usual(model.decode));
    let prompt = prefill.map_or(0.0, |rate| ask.prompt_tokens / rate);
    let tokens = ask.output_tokens.or(model.output.get()).unwrap_or(0.0);
    let output = decode.map_or(0.0, |rate| tokens / rate);
    (prompt, output, -prompt * ask.cached_part(lane))
}
