//! One model over the fleet.

use llamatower_layers::ModelName;
use tokio::time::Instant;

use super::ServerId;
use super::average::Average;
use super::lane::{Flight, Lane, Report, seconds};

/// The weight of the latest gap between requests in the average.
const GAP_WEIGHT: f64 = 0.1;
/// After so many usual gaps, a request has come for certain, to the precision of a number.
const CERTAIN: f64 = 40.0;

/// One model: where it is installed, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The servers that have it, by id.
    pub(crate) lanes: Vec<Lane>,
    /// Those that do not list it any more, but have requests for it in flight: they may list it again.
    gone: Vec<Lane>,
    /// Those that have it in memory, load it, or do not tell; by id.
    copies: Vec<ServerId>,
    /// Requests in the queue.
    pub(crate) waiting: usize,
    /// When the first of them arrived.
    pub(crate) oldest: Option<Instant>,
    /// Output tokens of a request.
    pub(crate) output: Average,
    /// Prompt tokens in a second, of a server with weight 1.
    pub(crate) prefill: Average,
    /// Output tokens of one request in a second, of a server with weight 1.
    pub(crate) decode: Average,
    /// Seconds of a request, of a server with weight 1.
    pub(crate) service: Average,
    /// The lanes of other models that rest so that this one can be loaded.
    pub(crate) rests: Vec<(ModelName, ServerId)>,
    gap: Option<f64>,
    last_request: Option<Instant>,
}

impl Model {
    pub(crate) fn lane(&self, id: ServerId) -> Option<&Lane> {
        self.position(id).map(|at| &self.lanes[at])
    }

    pub(crate) fn lane_mut(&mut self, id: ServerId) -> Option<&mut Lane> {
        self.position(id).map(|at| &mut self.lanes[at])
    }

    /// The index of a server's lane.
    pub(crate) fn position(&self, id: ServerId) -> Option<usize> {
        // Often each server has the model, and its index is its id.
        let is_at = |at: usize| self.lanes.get(at).is_some_and(|lane| lane.server == id);
        if is_at(id.index()) {
            return Some(id.index());
        }
        let at = self.lanes.binary_search_by_key(&id, |lane| lane.server);
        at.ok()
    }

    pub(crate) fn insert(&mut self, lane: Lane) {
        let at = self
            .lanes
            .partition_point(|known| known.server < lane.server);
        note_copy(&mut self.copies, &lane);
        self.lanes.insert(at, lane);
    }

    /// The server lists the model no more.
    pub(crate) fn remove(&mut self, id: ServerId) {
        self.copies.retain(|copy| *copy != id);
        if let Some(at) = self.position(id) {
            let lane = self.lanes.remove(at);
            if lane.in_flight > 0 {
                self.gone.push(lane);
            }
        }
    }

    /// Forgets a server, of which no request is in flight.
    pub(crate) fn forget(&mut self, id: ServerId) {
        self.remove(id);
        self.gone.retain(|lane| lane.server != id);
    }

    /// The lane of a server that lists the model again while requests from before are in flight.
    pub(crate) fn take_gone(&mut self, id: ServerId) -> Option<Lane> {
        let at = self.gone.iter().position(|lane| lane.server == id)?;
        Some(self.gone.swap_remove(at))
    }

    /// The lane of a request in flight.
    pub(crate) fn lane_in_flight(&mut self, id: ServerId) -> Option<&mut Lane> {
        match self.position(id) {
            Some(at) => Some(&mut self.lanes[at]),
            None => self.gone.iter_mut().find(|lane| lane.server == id),
        }
    }

    /// Changes a lane in a way that may change whether the model is in memory there.
    pub(crate) fn change_lane<T>(
        &mut self,
        id: ServerId,
        change: impl FnOnce(&mut Lane) -> T,
    ) -> Option<T> {
        let at = self.position(id)?;
        let changed = change(&mut self.lanes[at]);
        let lane = &self.lanes[at];
        note_copy(&mut self.copies, lane);
        Some(changed)
    }

    /// Whether anything would be lost if the model were forgotten.
    pub(crate) fn is_in_use(&self) -> bool {
        !self.lanes.is_empty() || !self.gone.is_empty() || self.waiting > 0
    }

    /// Counts a request that is sent.
    pub(crate) fn count(&mut self, now: Instant) {
        if let Some(last) = self.last_request {
            let gap = seconds(last, now);
            self.gap = Some(match self.gap {
                Some(average) => average + GAP_WEIGHT * (gap - average),
                None => gap,
            });
        }
        self.last_request = Some(now);
    }

    /// Records the end of a request on one server. Returns the number of its slots, if that was
    /// learned by it.
    pub(crate) fn end(
        &mut self,
        flight: &Flight,
        report: Option<Report>,
        weight: f64,
        now: Instant,
    ) -> Option<u32> {
        let lane = self.lane_in_flight(flight.server)?;
        lane.end(flight, report, now);
        let (rates, learned) = (lane.rates, lane.slots.learned());
        self.gone.retain(|lane| lane.in_flight > 0);
        let Some(report) = report.filter(|_| !flight.is_own) else {
            return learned;
        };
        self.output.add(report.output_tokens as f64);
        let add = |to: &mut Average, value: Average, factor: f64| {
            if let Some(value) = value.get() {
                to.add(value * factor);
            }
        };
        add(&mut self.prefill, rates.prefill, 1.0 / weight);
        add(&mut self.decode, rates.decode, 1.0 / weight);
        add(&mut self.service, rates.service, weight);
        learned
    }

    /// The probability that a request for this model comes within so many seconds, if requests
    /// come at random times at the rate of late.
    pub(crate) fn probability_within(&self, horizon: f64, now: Instant) -> f64 {
        let Some(last) = self.last_request else {
            return 0.0;
        };
        // A model that was not asked for lately is asked for less often than before.
        let since = seconds(last, now);
        let gap = self.gap.unwrap_or(since).max(since).max(1e-3);
        // The exponential is too small to change the result, and its calculation is the slowest of a choice.
        if horizon >= CERTAIN * gap {
            return 1.0;
        }
        1.0 - (-horizon / gap).exp()
    }

    /// The servers that have it in memory, load it, or do not tell; by id.
    pub(crate) fn copies(&self) -> &[ServerId] {
        &self.copies
    }
}

fn note_copy(copies: &mut Vec<ServerId>, lane: &Lane) {
    let is_copy = lane.residency != super::Residency::Cold;
    match (copies.binary_search(&lane.server), is_copy) {
        (Err(at), true) => copies.insert(at, lane.server),
        (Ok(at), false) => {
            copies.remove(at);
        }
        _ => {}
    }
}
