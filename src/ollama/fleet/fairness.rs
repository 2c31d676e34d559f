//! Fairness over several gateways: what the others have served to a client counts in this queue too.
//!
//! ```text
//! queue ── what clients have received ──▶ Redis      each 250 ms, in the background
//!       ◀─ what all gateways have served ──
//! ```
//!
//! Without Redis each queue is fair by itself.

use std::time::Duration;

use foldhash::HashMap;
use llamatower_layers::queue::{Queue, Raise};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Fleet;
use super::dispatch::{Class, Dispatcher};
use crate::clients::Client;
use crate::shared::{CounterId, MOST_COUNTERS, MOST_ROWS, Served, SharedService};

/// The time between two exchanges.
const EVERY: Duration = Duration::from_millis(250);
/// A client that other gateways have served is behind by no more than what a client can receive in
/// one to two times this.
const LONGEST_MEMORY: Duration = Duration::from_secs(30);

impl<S> Fleet<S> {
    /// Exchanges what clients have received with the other gateways, until it is dropped.
    pub(crate) async fn share_fairness(&self, service: SharedService) {
        let mut shares = Shares::new(service);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    shares.collect(&self.queue);
                    shares.exchange(&self.queue).await;
                }
                () = self.queue.has_new_keys() => shares.collect(&self.queue),
            }
        }
    }
}

/// A class of the queue and one of its clients; none for the floor of the class.
type Place = (Class, Option<Option<Client>>);

/// What this gateway knows of the counters.
struct Shares {
    service: SharedService,
    is_joined: bool,
    /// What all gateways have served, as Redis has said it last; also to clients that this gateway has
    /// not seen.
    known: HashMap<CounterId, f64>,
    /// Which counters those of the queue are.
    places: HashMap<CounterId, Place>,
    /// What is to be sent.
    rows: HashMap<CounterId, Served>,
    paces: HashMap<Class, Pace>,
}

/// How far a floor has come.
struct Pace {
    floor: f64,
    /// At the last two looks.
    earlier: [f64; 2],
    looked: Instant,
}

impl Pace {
    fn new(floor: f64) -> Self {
        Self {
            floor,
            earlier: [floor; 2],
            looked: Instant::now(),
        }
    }

    fn note(&mut self, floor: f64) {
        self.floor = self.floor.max(floor);
        if self.looked.elapsed() >= LONGEST_MEMORY {
            self.earlier = [self.earlier[1], self.floor];
            self.looked = Instant::now();
        }
    }

    /// What the client that has received most can have received of late.
    fn lead(&self) -> f64 {
        self.floor - self.earlier[0]
    }
}

fn id_of((class, client): &Place) -> Option<CounterId> {
    let model = class.model.as_ref().filter(|_| class.runs_model)?;
    // Clients can write a name in capitals too.
    let model = model.full().to_ascii_lowercase();
    Some(match client {
        None => CounterId::new(&model, None),
        Some(None) => CounterId::new(&model, Some("")),
        Some(Some(client)) => CounterId::new(&model, Some(&client.to_string())),
    })
}

impl Shares {
    fn new(service: SharedService) -> Self {
        Self {
            service,
            is_joined: true,
            known: HashMap::default(),
            places: HashMap::default(),
            rows: HashMap::default(),
            paces: HashMap::default(),
        }
    }

    /// Takes from the queue what is to be sent, and tells it what is known of new clients.
    fn collect<S>(&mut self, queue: &Queue<Dispatcher<S>>) {
        let mut raised = Vec::new();
        for row in queue.take_service() {
            let place = (row.class, row.key);
            let Some(id) = id_of(&place) else {
                continue;
            };
            let served = Served {
                before: row.before,
                added: row.added,
            };
            if place.1.is_none() || row.added > 0.0 {
                let known = self.rows.get(&id).copied().unwrap_or_default();
                self.rows.insert(id.clone(), known.then(served));
            }
            if self.is_joined {
                raised.extend(self.raise(&id, &place));
            }
            self.places.insert(id, place);
        }
        queue.raise(&raised);
        if self.rows.len() > 2 * MOST_COUNTERS {
            self.rows.clear();
        }
        if self.places.len() > 2 * MOST_COUNTERS {
            // They are known again when they receive service the next time.
            self.places.clear();
            self.paces.clear();
        }
    }

    async fn exchange<S>(&mut self, queue: &Queue<Dispatcher<S>>) {
        if !self.service.is_connected() {
            return self.part();
        }
        let mut ids = Vec::new();
        loop {
            let Ok(counters) = self.service.exchange(&mut self.rows).await else {
                return self.part();
            };
            let is_all = counters.len() < MOST_ROWS;
            ids.extend(counters.iter().map(|(id, _)| id.clone()));
            self.known.extend(counters);
            if is_all {
                break;
            }
        }
        if !std::mem::replace(&mut self.is_joined, true) {
            queue.leave_scale();
        }
        let places = ids
            .iter()
            .filter_map(|id| Some((id, self.places.get(id)?.clone())));
        // A class moves to the scale of the others by its floor.
        let (floors, clients): (Vec<_>, Vec<_>) = places.partition(|(_, place)| place.1.is_none());
        let mut raised = Vec::with_capacity(ids.len());
        for (id, place) in floors.iter().chain(&clients) {
            raised.extend(self.raise(id, place));
        }
        queue.raise(&raised);
        if self.known.len() > 2 * MOST_COUNTERS {
            self.known.clear();
            self.service.forget();
        }
    }

    /// Redis does not answer. The others may have gone on when it does.
    fn part(&mut self) {
        self.is_joined = false;
        self.known.clear();
        self.service.forget();
    }

    fn raise(&mut self, id: &CounterId, place: &Place) -> Option<Raise<Class, Option<Client>>> {
        let known = *self.known.get(id)?;
        let (class, key) = place.clone();
        let pace = self.paces.entry(class.clone());
        let lead = match key {
            None => {
                let pace = pace.or_insert_with(|| Pace::new(known));
                pace.note(known);
                0.0
            }
            Some(_) => pace.or_insert_with(|| Pace::new(0.0)).lead(),
        };
        // What is not sent yet is not in it.
        let unsent = self.rows.get(id).map_or(0.0, |row| row.added);
        Some(Raise {
            class,
            key,
            to: known + unsent,
            lead,
        })
    }
}
