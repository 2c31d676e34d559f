//! How soon a model could answer, for the choice among several models.

use std::cmp::Ordering;

use llamatower_layers::ModelName;
use llamatower_layers::model_alias::ExpectedTime;
use tokio::time::Instant;

use super::choose::Ask;
use super::lane::{Lane, Residency};
use super::slots::part;
use super::{Availability, Policy, ServerId, View};

impl Policy {
    /// Whether a model is in the memory of one of these servers, or is being loaded there. A server
    /// that does not tell what is in its memory does not count.
    pub(crate) fn is_resident_anywhere(
        &self,
        model: &ModelName,
        is_up: impl Fn(ServerId) -> bool,
    ) -> bool {
        let is_there = |residency: Residency| {
            matches!(
                residency,
                Residency::Resident { .. } | Residency::Loading(_)
            )
        };
        self.models.get(model).is_some_and(|model| {
            let mut lanes = model.lanes.iter();
            lanes.any(|lane| is_there(lane.residency) && is_up(lane.server))
        })
    }

    /// The number of requests for a model that can be in flight on the servers that have it in memory
    /// or load it, when the load is complete; if there are none, on one of those that could load it.
    pub(crate) fn slots_of(
        &self,
        model: &ModelName,
        is_up: impl Fn(ServerId) -> bool,
        now: Instant,
    ) -> usize {
        let Some(model) = self.models.get(model) else {
            return 0;
        };
        let slots = |lane: &Lane| {
            if lane.is_full_elsewhere {
                return lane.in_flight;
            }
            let server = self.server(lane.server);
            let of_all = server.and_then(|server| Some((server.spec.max_in_flight?, server)));
            let of_all = of_all.map_or(u32::MAX, |(max, server)| part(max, server.gateways));
            lane.slots.limit(now).min(of_all)
        };
        let up = || model.lanes.iter().filter(|lane| is_up(lane.server));
        let copies = up().filter(|lane| lane.residency != Residency::Cold);
        let slots = match copies.map(slots).reduce(u32::saturating_add) {
            Some(slots) => slots,
            None => up().map(slots).max().unwrap_or_default(),
        };
        slots as usize
    }

    /// How soon the request would be answered: by the best server in the best state, after those that
    /// are in the queue before it. `None` if no server that has the model is up.
    pub(crate) fn expected(
        &self,
        ask: &Ask<'_>,
        view: impl Fn(ServerId) -> Option<View>,
    ) -> Option<ExpectedTime> {
        let model = self.models.get(ask.model)?;
        let mut best: Option<Offer> = None;
        let mut pace = 0.0;
        for lane in &model.lanes {
            let Some((view, server)) = view(lane.server).zip(self.server(lane.server)) else {
                continue;
            };
            if view.availability >= Availability::Down {
                continue;
            }
            let judged = self.judge(model, lane, server, ask);
            pace += judged.pace;
            let speed = lane.rates.decode.get().or(model.decode.get());
            let offer = Offer {
                availability: view.availability,
                delay: judged.terms.load + judged.terms.wait,
                work: judged.terms.work + judged.terms.affinity,
                is_measured: speed.is_some(),
            };
            if best.is_none_or(|best| offer.is_better_than(best)) {
                best = Some(offer);
            }
        }
        let best = best?;
        let ahead = ask.waiting.saturating_sub(1) as f64;
        // Where nothing was measured, requests take no time.
        let queue = match pace > 0.0 && pace.is_finite() {
            true => ahead / pace,
            false => 0.0,
        };
        Some(ExpectedTime {
            delay: best.delay + queue,
            work: best.is_measured.then_some(best.work),
        })
    }
}

/// What one server offers.
#[derive(Clone, Copy)]
struct Offer {
    availability: Availability,
    delay: f64,
    work: f64,
    is_measured: bool,
}

impl Offer {
    fn is_better_than(self, other: Self) -> bool {
        match self.availability.cmp(&other.availability) {
            Ordering::Equal => self.delay + self.work < other.delay + other.work,
            order => order.is_lt(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::{InMemory, Phases, Report, ServerSpec};
    use super::*;

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    fn ask(model: &ModelName, waiting: usize, now: Instant) -> Ask<'_> {
        Ask {
            prompt_tokens: 10.0,
            waiting,
            ..Ask::arriving(model, now)
        }
    }

    fn view(availability: Availability) -> impl Fn(ServerId) -> Option<View> {
        move |_| {
            Some(View {
                availability,
                was_tried: false,
                is_trial: false,
            })
        }
    }

    #[test]
    fn a_model_in_memory_answers_sooner_and_a_queue_makes_it_later() {
        let (mut policy, now) = (Policy::default(), Instant::now());
        let spec = ServerSpec {
            slots: Some(1),
            ..ServerSpec::new("gpu-1".into())
        };
        let id = policy.add_server(spec);
        let (warm, cold) = (model("warm"), model("cold"));
        policy.set_installed(id, &[(warm.clone(), 10), (cold.clone(), 10)]);
        let row = InMemory {
            model: warm.clone(),
            bytes: 10,
            context: None,
            expires: Some(now + Duration::from_secs(3600)),
        };
        policy.set_residents(id, Some(&[row]), now, now);
        assert!(
            policy.is_resident_anywhere(&warm, |_| true)
                && !policy.is_resident_anywhere(&cold, |_| true)
        );
        assert!(
            !policy.is_resident_anywhere(&warm, |_| false),
            "its server is down"
        );
        // A request of 5 s teaches how long requests take.
        let grant = policy.choose(&ask(&warm, 1, now), view(Availability::Healthy));
        let grant = grant.unwrap();
        let ended = now + Duration::from_secs(5);
        policy.first_byte(&warm, grant.flight, now + Duration::from_secs(1));
        let phases = Phases {
            load: Duration::ZERO,
            prompt: Duration::from_secs(1),
            output: Duration::from_secs(4),
            total: Duration::from_secs(5),
        };
        let report = Report {
            prompt_tokens: 10,
            output_tokens: 10,
            phases: Some(phases),
        };
        policy.end(&warm, grant.flight, Some(report), ended);
        let expected = |model: &ModelName, waiting| {
            let ask = ask(model, waiting, ended);
            policy.expected(&ask, view(Availability::Healthy))
        };
        let (of_warm, of_cold) = (expected(&warm, 1).unwrap(), expected(&cold, 1).unwrap());
        assert!(of_warm.delay < of_cold.delay);
        assert!(
            of_warm.work > Some(4.0) && of_cold.work.is_none(),
            "{of_warm:?}"
        );
        // The first byte comes after the prompt, or at the end if the response is no stream.
        let first_byte = |policy: &mut Policy, ask: Ask<'_>| {
            let grant = policy.choose(&ask, view(Availability::Healthy)).unwrap();
            policy.end(ask.model, grant.flight, None, ended);
            grant.first_byte.as_secs_f64()
        };
        let stream = first_byte(&mut policy, ask(&warm, 1, ended));
        assert!((stream - 1.0).abs() < 0.01, "{stream}");
        let whole = Ask {
            streams: false,
            output_tokens: Some(10.0),
            ..ask(&warm, 1, ended)
        };
        let whole = first_byte(&mut policy, whole);
        assert!((whole - 5.0).abs() < 0.01, "{whole}");
        let with_load = first_byte(&mut policy, ask(&cold, 1, ended));
        assert!(with_load > 0.4, "{with_load}");
        let expected = |model: &ModelName, waiting| {
            let ask = ask(model, waiting, ended);
            policy.expected(&ask, view(Availability::Healthy))
        };
        let behind_three = expected(&warm, 4).unwrap();
        assert!(
            behind_three.delay > of_warm.delay + 10.0,
            "{behind_three:?}"
        );
        assert_eq!(expected(&model("absent"), 1), None);
        let down = policy.expected(&ask(&warm, 1, ended), view(Availability::Down));
        assert_eq!(down, None);
    }
}
