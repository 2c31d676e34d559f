//! Slots that gateways share: a request is sent once its slot is leased.
//!
//! The slot is taken with the choice, as always, and then leased. If the other gateways use all slots of
//! the server, it counts as full until Redis says that there is room, and the request goes back to its
//! place in the queue. A request that loads its model is sent once the gateways know of the load; if
//! another one loads it already, the request goes back too.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llamatower_layers::queue::Line;
use llamatower_layers::store::StoreUnavailable;
use llamatower_layers::{ModelName, queue};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::dispatch::{Class, Dispatcher};
use super::member::Slot;
use super::policy::ServerId;
use super::wait_timer::WaitTimer;
use super::{Fleet, SlotRule};
use crate::shared::{BeginLoad, Claim, Lease, Leases, LoadElsewhere, OwnLoad};

/// A full server is asked for again after this part of the time since it is full, so that the wait adds
/// little to that of a slot.
const PART: u32 = 16;
/// The shortest and the longest time until it is asked for again.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(250);

/// A request that waits for its lease.
pub struct Leasing<S> {
    permit: Option<queue::Permit<Dispatcher<S>>>,
    claim: Option<Claim>,
    taking: Pin<Box<Taking>>,
    pub(super) since: Instant,
    /// Measures the wait, if the request has waited for a slot.
    timer: Option<WaitTimer>,
}

type Taking = dyn Future<Output = Result<Taken, StoreUnavailable>> + Send;

/// What Redis has said.
enum Taken {
    Yes {
        lease: Option<Lease>,
        load: Option<OwnLoad>,
    },
    /// Other gateways use all slots.
    Full,
    /// Another gateway loads the model; these are all loads by others.
    LoadsElsewhere(Vec<LoadElsewhere>),
}

/// What a request needs from Redis before it is sent.
pub(super) struct ToTake<'a, L> {
    /// A lease of its slot.
    pub(super) lease: Option<(&'a Leases, Claim)>,
    /// The consent to its load.
    pub(super) load: Option<L>,
}

/// A model on a server whose slots are used by other gateways.
#[derive(Debug)]
struct FullLane {
    server: ServerId,
    model: ModelName,
    claim: Claim,
    since: Instant,
    /// When Redis is asked again.
    next: Instant,
}

/// The lanes whose slots are used by other gateways.
#[derive(Debug, Default)]
pub(super) struct FullLanes {
    lanes: Mutex<Vec<FullLane>>,
    changed: Notify,
}

/// The time until a lane is asked for again that has been full for so long.
fn ask_again_after(full_for: Duration) -> Duration {
    (full_for / PART).clamp(SHORTEST, LONGEST)
}

/// How long this gateway counts as waiting if it asks again after this time. Nobody else gets the slot
/// meanwhile.
fn counts_for(ask_again: Duration) -> Duration {
    2 * ask_again + Duration::from_millis(50)
}

impl FullLanes {
    fn lock(&self) -> MutexGuard<'_, Vec<FullLane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refusal.
    fn add(&self, server: ServerId, model: &ModelName, claim: Claim) {
        let now = Instant::now();
        let mut lanes = self.lock();
        let mut known = lanes.iter_mut();
        match known.find(|lane| lane.server == server && lane.model == *model) {
            Some(lane) => lane.next = now + ask_again_after(now - lane.since),
            None => lanes.push(FullLane {
                server,
                model: model.clone(),
                claim,
                since: now,
                next: now + SHORTEST,
            }),
        }
        drop(lanes);
        self.changed.notify_one();
    }

    /// A request has got a slot of a lane, so that the next one is soon free. Other requests can have
    /// been refused meanwhile.
    fn note_granted(&self, server: ServerId, model: &ModelName) {
        let now = Instant::now();
        let mut lanes = self.lock();
        let mut known = lanes.iter_mut();
        if let Some(lane) = known.find(|lane| lane.server == server && lane.model == *model) {
            lane.since = now;
            lane.next = lane.next.min(now + SHORTEST);
        }
    }

    fn remove(&self, server: ServerId, model: &ModelName) {
        let mut lanes = self.lock();
        lanes.retain(|lane| lane.server != server || lane.model != *model);
    }

    fn next(&self) -> Option<Instant> {
        self.lock().iter().map(|lane| lane.next).min()
    }

    /// All lanes are asked for again now.
    fn hurry(&self) {
        let now = Instant::now();
        for lane in &mut *self.lock() {
            (lane.since, lane.next) = (now, now);
        }
    }

    /// The lanes that are to be asked for now. The next time is set.
    fn due(&self) -> Vec<(ServerId, ModelName, Claim, Duration)> {
        let now = Instant::now();
        let mut lanes = self.lock();
        let due = lanes.iter_mut().filter(|lane| lane.next <= now);
        due.map(|lane| {
            let again = ask_again_after(now - lane.since);
            lane.next = now + again;
            let (model, claim) = (lane.model.clone(), lane.claim.clone());
            (lane.server, model, claim, counts_for(again))
        })
        .collect()
    }
}

/// What came of a slot.
#[allow(clippy::large_enum_variant, reason = "it is matched where it is made")]
pub(super) enum Leased<S> {
    /// It can be used.
    Yes(queue::Permit<Dispatcher<S>>),
    /// Other gateways use all of them, or Redis does not answer. The request goes back into the queue.
    No(Instant),
}

impl<S> Leasing<S> {
    /// Takes what a request needs that is in the queue since this time.
    pub(super) fn start<L>(
        to_take: ToTake<'_, L>,
        permit: queue::Permit<Dispatcher<S>>,
        since: Instant,
        timer: Option<WaitTimer>,
    ) -> Self
    where
        L: Future<Output = Result<BeginLoad, StoreUnavailable>> + Send + 'static,
    {
        let ToTake { lease, load } = to_take;
        let claim = lease.as_ref().map(|(_, claim)| claim.clone());
        let lease = lease.map(|(leases, claim)| (leases.clone(), claim));
        let line = permit.slot().line;
        let line = line.unwrap_or_else(|| Line::arriving(since));
        Self {
            permit: Some(permit),
            claim,
            taking: Box::pin(async move {
                let load = match load {
                    // Without Redis each gateway loads what it needs.
                    Some(load) => load.await.ok(),
                    None => None,
                };
                let load = match load {
                    Some(BeginLoad::Elsewhere(others)) => return Ok(Taken::LoadsElsewhere(others)),
                    Some(BeginLoad::Yes(load)) => Some(load),
                    None => None,
                };
                let Some((leases, claim)) = lease else {
                    return Ok(Taken::Yes { lease: None, load });
                };
                let lease = leases.take(claim, line, counts_for(SHORTEST)).await?;
                Ok(match lease {
                    Some(_) => Taken::Yes { lease, load },
                    None => Taken::Full,
                })
            }),
            since,
            timer,
        }
    }

    /// Waits for the lease.
    pub(super) fn poll(
        &mut self,
        fleet: &Fleet<S>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Leased<S>> {
        let taken = std::task::ready!(self.taking.as_mut().poll(cx));
        self.timer = None;
        let Some(permit) = self.permit.take() else {
            // It is not polled after its end.
            return std::task::Poll::Pending;
        };
        let Some(flight) = permit.slot().flight().cloned() else {
            return std::task::Poll::Ready(Leased::Yes(permit));
        };
        let (server, model) = (flight.grant().server, flight.model());
        std::task::Poll::Ready(match taken {
            Ok(Taken::Yes { lease, load }) => {
                if let Some(load) = load {
                    flight.hold_load(load);
                }
                if let Some(lease) = lease {
                    fleet.full_lanes.note_granted(server, model);
                    flight.hold(lease);
                }
                Leased::Yes(permit)
            }
            Ok(Taken::LoadsElsewhere(others)) => {
                // First, or the next request in the queue begins another load.
                fleet.note_loads(others);
                permit.slot().member().refresh_resident();
                drop(flight);
                permit.unused();
                Leased::No(self.since)
            }
            Ok(Taken::Full) => {
                // First, or the next request in the queue gets the slot, and is refused too.
                fleet.mark_full(server, model, true);
                if let Some(claim) = self.claim.clone() {
                    fleet.full_lanes.add(server, model, claim);
                }
                if flight.loads() {
                    // The policy has counted the load, and the models that it unloads.
                    permit.slot().member().refresh_resident();
                }
                drop(flight);
                permit.unused();
                Leased::No(self.since)
            }
            Err(_) => {
                fleet.divide_slots_now();
                drop(flight);
                permit.unused();
                Leased::No(self.since)
            }
        })
    }
}

impl<S> Drop for Leasing<S> {
    /// The client has left before the request was sent.
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.unused();
        }
    }
}

impl<S> Fleet<S> {
    /// The limits to lease for this slot, if gateways share them. While Redis does not answer, the slot is
    /// used without: it is this gateway's part.
    pub(super) fn to_lease(&self, slot: &Slot<S>) -> Option<(&Leases, Claim)> {
        let (leases, claim) = (self.config.leases.as_ref()?, self.claim(slot)?);
        if leases.is_sharing() {
            return Some((leases, claim));
        }
        if let Some(flight) = slot.flight() {
            flight.hold(leases.hold(claim));
        }
        None
    }

    /// The configured limits that the request of a slot is counted in.
    fn claim(&self, slot: &Slot<S>) -> Option<Claim> {
        let leases = self.config.leases.as_ref()?;
        let (flight, member) = (slot.flight()?, slot.member());
        let slots = match member.slots {
            SlotRule::Count(_) => member.slots.configured(),
            SlotRule::Learn | SlotRule::Off => None,
        };
        let in_flight = member.backend.rules().max_in_flight;
        let in_flight = in_flight.map(|most| u32::try_from(most.get()).unwrap_or(u32::MAX));
        if slots.is_none() && in_flight.is_none() {
            return None;
        }
        let (server, model) = (member.backend.name(), flight.model().full());
        leases.claim(server, model, slots, in_flight)
    }

    fn mark_full(&self, server: ServerId, model: &ModelName, is_full: bool) {
        self.router
            .change(|policy| policy.set_full_elsewhere(server, model, is_full));
    }

    /// Divides slots as it is due now.
    fn divide_slots_now(&self) {
        if let Some(leases) = &self.config.leases {
            self.divide_slots(leases.divisor());
        }
    }

    /// Asks Redis for the lanes whose slots other gateways use, until it is dropped.
    pub async fn watch_full_lanes(&self) {
        let Some(leases) = &self.config.leases else {
            return;
        };
        loop {
            let next = self.full_lanes.next();
            tokio::select! {
                () = self.full_lanes.changed.notified() => {}
                () = leases.were_released() => self.full_lanes.hurry(),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            for (server, model, claim, waits) in self.full_lanes.due() {
                let class = Class {
                    model: Some(model.clone()),
                    runs_model: true,
                };
                let line = self.queue.next_line(&class);
                let line = line.filter(|_| leases.is_sharing());
                let is_full = match line {
                    None => false,
                    Some(line) => match leases.has_room(&claim, line, waits).await {
                        Ok(has_room) => !has_room,
                        Err(_) => {
                            self.divide_slots_now();
                            false
                        }
                    },
                };
                if !is_full {
                    self.full_lanes.remove(server, &model);
                    self.mark_full(server, &model, false);
                    self.queue.slots_changed();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::pending;

    use llamatower_layers::queue::{Entry, Queue};

    use super::super::catalogue::Catalogue;
    use super::super::dispatch::Need;
    use super::super::member::tests::{installed, member};
    use super::super::router::Router;
    use super::*;
    use crate::clients::Client;

    #[tokio::test]
    async fn a_client_that_leaves_before_its_slot_is_leased_loses_no_turn() {
        let router = Router::default();
        let member = member("a", Some(1), &router);
        member.set_models(vec![installed("m")]);
        member.tell_installed();
        let catalogue = Catalogue::new(vec![vec![member]]);
        let queue = Queue::new(Dispatcher::new(std::sync::Arc::new(catalogue), router));
        let class = Class {
            model: ModelName::parse("m").ok(),
            runs_model: true,
        };
        let client = |name: &str| Some(Client::Key(name.into()));
        let enter = |name: &str| {
            let entry = Entry::new(client(name), Need::default());
            queue.enter(class.clone(), entry.with_cost(100)).unwrap()
        };
        let permit = enter("ada").await.unwrap();
        let (lease, load) = (None, Some(pending()));
        let to_take = ToTake { lease, load };
        drop(Leasing::start(to_take, permit, Instant::now(), None));
        assert_eq!(queue.class(&class).unwrap().service_time, None);

        let _held = enter("eve").await.unwrap();
        let _waiting = ["ben", "ada", "cid"].map(enter);
        let mut next = queue.waiters(3);
        next.sort_by_key(|row| row.position.ahead);
        let next: Vec<_> = next.into_iter().map(|row| row.key).collect();
        assert_eq!(next, ["ben", "ada", "cid"].map(client));
    }
}
