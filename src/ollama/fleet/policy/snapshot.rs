//! What the policy knows of each server, for operators.

use foldhash::HashMap;
use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::lane::{Lane, seconds};
use super::memory::{Load, Memory};
use super::outside::Outside;
use super::slots::SlotStatus;
use super::{Policy, Residency, ServerId};

/// What the policy knows of one server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerSnapshot {
    /// `None` if the server does not list the models in its memory.
    pub(crate) memory: Option<MemoryStatus>,
    /// What it tells of its load.
    pub(crate) outside: Outside,
    /// The models that are in its memory or have requests.
    pub(crate) models: Vec<ModelStatus>,
}

/// What the memory of a server was seen to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStatus {
    /// The most that was in memory at the same time.
    pub held: Occupancy,
    /// What did not fit: a model was unloaded for another one.
    pub did_not_fit: Option<Occupancy>,
}

/// Models in a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Their number.
    pub models: usize,
    /// Their size, in bytes; 0 if it is not known.
    pub bytes: u64,
}

/// One model on one server.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelName,
    /// Whether it is in memory.
    pub residency: Residency,
    /// Requests in flight that run it.
    pub in_flight: u32,
    /// How many may be in flight.
    pub slots: SlotStatus,
    /// Prompt tokens in a second, as measured here.
    pub prompt_rate: Option<f64>,
    /// Output tokens of one request in a second, as measured here.
    pub output_rate: Option<f64>,
    /// Seconds of a load, as measured here.
    pub load_seconds: Option<f64>,
    /// It gets no new request for this many seconds, or until the model is loaded that needs its
    /// place.
    pub rests_for: Option<f64>,
}

impl Policy {
    /// What is known of each server. Models that are not in memory and have no request are left
    /// out, because a server may have hundreds of them.
    pub(crate) fn snapshot(&self, now: Instant) -> HashMap<ServerId, ServerSnapshot> {
        let mut rows: HashMap<ServerId, ServerSnapshot> = HashMap::default();
        for (server, index) in self.servers.iter().zip(0..) {
            let Some(server) = server else { continue };
            let row = rows.entry(ServerId(index)).or_default();
            row.outside = server.outside;
            let tells_memory = Some(server).filter(|server| server.tells_residents);
            row.memory = tells_memory.map(|server| MemoryStatus::of(&server.memory));
        }
        for (name, model) in &self.models {
            for lane in model.lanes.iter().filter(|lane| lane.is_in_use(now)) {
                let row = rows.entry(lane.server).or_default();
                row.models.push(ModelStatus::of(name, lane, now));
            }
        }
        rows
    }
}

impl Lane {
    fn shown_residency(&self) -> Residency {
        match self.is_kept {
            true => Residency::Resident { context: None },
            false => self.residency,
        }
    }

    fn is_in_use(&self, now: Instant) -> bool {
        let residency = self.shown_residency();
        let is_in_memory = matches!(
            residency,
            Residency::Resident { .. } | Residency::Loading(_)
        );
        is_in_memory || self.in_flight > 0 || self.is_resting(now)
    }
}

impl ModelStatus {
    fn of(name: &ModelName, lane: &Lane, now: Instant) -> Self {
        let rest = lane.resting_until.map(|until| seconds(now, until));
        Self {
            model: name.clone(),
            residency: lane.shown_residency(),
            in_flight: lane.in_flight,
            slots: lane.slots.status(now),
            prompt_rate: lane.rates.prefill.get(),
            output_rate: lane.rates.decode.get(),
            load_seconds: lane.rates.load.get(),
            rests_for: rest.filter(|rest| *rest > 0.0),
        }
    }
}

impl MemoryStatus {
    fn of(memory: &Memory) -> Self {
        let occupancy = |load: Load| Occupancy {
            models: load.models,
            bytes: load.bytes,
        };
        Self {
            held: occupancy(memory.fits()),
            did_not_fit: memory.does_not_fit().map(occupancy),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::super::{
        Ask, Availability, Grant, InMemory, Phases, Report, ServerSpec, SlotSource, SlotStatus,
        SlotsLearned, View,
    };
    use super::*;

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    /// A server with the models `a` and `b` on its disk.
    fn server(policy: &mut Policy, slots: Option<u32>) -> ServerId {
        let spec = ServerSpec {
            slots,
            ..ServerSpec::new("gpu-1".into())
        };
        let id = policy.add_server(spec);
        policy.set_installed(id, &[(model("a"), 10), (model("b"), 20)]);
        id
    }

    /// Tells what is in the memory of a server; each model has a size of 10 and does not expire.
    fn list(policy: &mut Policy, id: ServerId, names: &[&str], now: Instant) {
        let rows = names.iter().map(|name| InMemory {
            model: model(name),
            bytes: 10,
            context: None,
            expires: Some(now + Duration::from_secs(3600)),
        });
        let rows: Vec<_> = rows.collect();
        policy.set_residents(id, Some(&rows), now, now);
    }

    fn choose(policy: &mut Policy, model: &ModelName, now: Instant) -> Option<Grant> {
        let ask = Ask::arriving(model, now);
        let view = View {
            availability: Availability::Healthy,
            was_tried: false,
            is_trial: false,
        };
        policy.choose(&ask, |_| Some(view))
    }

    /// The rows of a server: the model, where it is, and its requests in flight.
    fn rows(policy: &Policy, id: ServerId, now: Instant) -> Vec<(String, &'static str, u32)> {
        let snapshot = policy.snapshot(now).remove(&id).unwrap();
        let rows = snapshot.models.iter();
        let mut rows: Vec<_> = rows
            .map(|row| (row.model.to_string(), row.residency.name(), row.in_flight))
            .collect();
        rows.sort();
        rows
    }

    /// The report of a response that took 5 s, of these seconds in all.
    fn report(total: u64) -> Report {
        Report {
            prompt_tokens: 10,
            output_tokens: 10,
            phases: Some(Phases {
                load: Duration::ZERO,
                prompt: Duration::from_secs(1),
                output: Duration::from_secs(4),
                total: Duration::from_secs(total),
            }),
        }
    }

    fn slots(limit: u32, known: u32, source: SlotSource) -> SlotStatus {
        SlotStatus {
            limit: Some(limit),
            known: Some(known),
            source,
        }
    }

    #[test]
    fn a_model_is_shown_from_its_load_until_it_leaves_memory() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let id = server(&mut policy, None);
        let row = |residency, in_flight| ("a:latest".to_owned(), residency, in_flight);
        assert_eq!(rows(&policy, id, now), []);
        list(&mut policy, id, &[], now);
        assert_eq!(rows(&policy, id, now), []);
        let a = model("a");
        let grant = choose(&mut policy, &a, now).unwrap();
        assert_eq!(rows(&policy, id, now), [row("loading", 1)]);
        policy.first_byte(&a, grant.flight, now);
        assert_eq!(rows(&policy, id, now), [row("resident", 1)]);
        policy.end(&a, grant.flight, None, now);
        assert_eq!(rows(&policy, id, now), [row("resident", 0)]);
        list(&mut policy, id, &[], now + Duration::from_secs(1));
        assert_eq!(rows(&policy, id, now), []);
    }

    #[test]
    fn a_server_that_does_not_tell_shows_the_models_with_requests() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let id = server(&mut policy, None);
        let a = model("a");
        let grant = choose(&mut policy, &a, now).unwrap();
        assert_eq!(
            rows(&policy, id, now),
            [("a:latest".to_owned(), "unknown", 1)]
        );
        assert_eq!(policy.snapshot(now)[&id].memory, None);
        policy.end(&a, grant.flight, None, now);
        assert_eq!(rows(&policy, id, now), []);
    }

    #[test]
    fn the_measured_speed_is_shown() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let id = server(&mut policy, None);
        list(&mut policy, id, &[], now);
        let a = model("a");
        let grant = choose(&mut policy, &a, now).unwrap();
        policy.first_byte(&a, grant.flight, now);
        let speed = |policy: &Policy| {
            let snapshot = policy.snapshot(now).remove(&id).unwrap();
            let row = &snapshot.models[0];
            (row.prompt_rate, row.output_rate, row.load_seconds)
        };
        assert_eq!(speed(&policy), (None, None, None));
        let report = Report {
            prompt_tokens: 400,
            output_tokens: 100,
            phases: Some(Phases {
                load: Duration::from_secs(3),
                prompt: Duration::from_secs(2),
                output: Duration::from_secs(4),
                total: Duration::from_secs(9),
            }),
        };
        policy.end(&a, grant.flight, Some(report), now);
        assert_eq!(speed(&policy), (Some(200.0), Some(25.0), Some(3.0)));
    }

    #[test]
    fn slots_are_shown_with_their_source() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let a = model("a");
        for (configured, expected) in [
            (None, slots(2, 1, SlotSource::Searching)),
            (Some(3), slots(3, 3, SlotSource::Configured)),
            (
                Some(super::super::NO_LIMIT),
                SlotStatus {
                    limit: None,
                    known: None,
                    source: SlotSource::Off,
                },
            ),
        ] {
            let id = server(&mut policy, configured);
            list(&mut policy, id, &["a"], now);
            assert_eq!(policy.snapshot(now)[&id].models[0].slots, expected);
            policy.remove_server(id);
        }
        let id = server(&mut policy, None);
        list(&mut policy, id, &["a"], now);
        // Two are sent, and the second one waits until the first one has ended.
        let [one, other] = [(); 2].map(|()| choose(&mut policy, &a, now).unwrap());
        policy.first_byte(&a, one.flight, now);
        let later = now + Duration::from_secs(5);
        let mut told = vec![
            policy.end(&a, one.flight, Some(report(5)), later),
            policy.first_byte(&a, other.flight, later).1,
        ];
        let later = later + Duration::from_secs(5);
        told.push(policy.end(&a, other.flight, Some(report(10)), later));
        let learned = slots(1, 1, SlotSource::Learned);
        assert_eq!(policy.snapshot(later)[&id].models[0].slots, learned);
        let told: Vec<_> = told.into_iter().flatten().collect();
        let expected = SlotsLearned {
            server: "gpu-1".into(),
            slots: 1,
        };
        assert_eq!(told, [expected], "once");
    }

    #[test]
    fn the_memory_is_shown_as_far_as_it_is_known() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let id = server(&mut policy, None);
        let size = |models, bytes| Occupancy { models, bytes };
        list(&mut policy, id, &["a"], now);
        let memory = |policy: &Policy| policy.snapshot(now)[&id].memory.unwrap();
        let held = MemoryStatus {
            held: size(1, 10),
            did_not_fit: None,
        };
        assert_eq!(memory(&policy), held);
        let b = model("b");
        let later = now + Duration::from_secs(1);
        let grant = choose(&mut policy, &b, later).unwrap();
        policy.first_byte(&b, grant.flight, later);
        list(&mut policy, id, &["b"], later + Duration::from_secs(1));
        let full = MemoryStatus {
            did_not_fit: Some(size(2, 20)),
            ..held
        };
        assert_eq!(memory(&policy), full);
    }

    #[test]
    fn a_model_that_rests_is_shown_with_its_time() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let id = server(&mut policy, None);
        list(&mut policy, id, &["a"], now);
        let lane = super::super::lane(&mut policy.models, &model("a"), id).unwrap();
        lane.resting_until = Some(now + Duration::from_secs(8));
        let rest = |now| policy.snapshot(now)[&id].models[0].rests_for;
        assert_eq!(rest(now), Some(8.0));
        assert_eq!(rest(now + Duration::from_secs(8)), None);
    }
}
