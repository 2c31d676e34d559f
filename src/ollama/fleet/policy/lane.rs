//! One model on one server: whether it is in memory, how fast it is, and what is in flight.

use std::time::Duration;

use tokio::time::Instant;

use super::ServerId;
use super::average::Average;
use super::choose::Ask;
use super::context::{Context, ContextPlan};
use super::prefix::PrefixCache;
use super::slots::SlotLimit;

/// A load is assumed to take this many seconds for each byte, until one was measured: 1 GB/s, a
/// common figure of an SSD.
const LOAD_SECONDS_PER_BYTE: f64 = 1e-9;
/// The assumed time of a load of unknown size.
const LOAD_SECONDS: f64 = 5.0;
/// The shortest wait in a server that counts as one: below it is noise of its clocks.
const SHORTEST_WAIT: f64 = 0.02;

/// Whether a model is in the memory of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Residency {
    /// The server does not tell, so it is assumed.
    Unknown,
    /// It is, with this context size in tokens if the server tells.
    Resident {
        /// The size of the context; `None` if the server does not tell.
        context: Option<u64>,
    },
    /// A request of this gateway, or of another one, loads it since this time.
    Loading(Instant),
    /// It is not.
    Cold,
}

impl Residency {
    /// A short name for `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Resident { .. } => "resident",
            Self::Loading(_) => "loading",
            Self::Cold => "cold",
        }
    }
}

/// One model on one server.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) server: ServerId,
    pub(crate) residency: Residency,
    /// The model is always in memory; the residency is then never told, and stays unknown.
    pub(crate) is_kept: bool,
    /// When the gateway itself last saw the residency change.
    pub(crate) changed: Option<Instant>,
    /// When the model came into memory, as far as the gateway has seen it.
    pub(crate) resident_since: Option<Instant>,
    /// When it leaves memory without another request, as the server told last.
    pub(crate) expires: Option<Instant>,
    /// Its size in memory, in bytes; 0 if it is not known.
    pub(crate) bytes: u64,
    /// How much longer loads of the fleet take than is assumed.
    pub(crate) load_factor: f64,
    /// It is to stay in memory.
    pub(crate) is_pinned: bool,
    /// Requests in flight.
    pub(crate) in_flight: u32,
    /// Those whose stream has begun.
    pub(crate) running: u32,
    /// A good response has begun since the server came up.
    pub(crate) has_answered: bool,
    /// When a stream ended last.
    last_end: Option<Instant>,
    /// When a request was sent last.
    last_sent: Option<Instant>,
    pub(crate) slots: SlotLimit,
    /// Other gateways use all slots.
    pub(crate) is_full_elsewhere: bool,
    /// The requests that wait for the model while it is in no memory could be sent to the server: it is in
    /// no worse state than the others.
    pub(crate) is_usable: bool,
    /// No new request is sent until this time, so that a model that waits can be loaded.
    pub(crate) resting_until: Option<Instant>,
    pub(crate) prefixes: PrefixCache,
    pub(crate) context: Context,
    /// The size of the context that is listed until a load with another one is complete.
    pub(crate) old_context: Option<u64>,
    pub(crate) rates: Rates,
}

/// The measured speed of a model on a server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Prompt tokens in a second.
    pub(crate) prefill: Average,
    /// Output tokens of one request in a second.
    pub(crate) decode: Average,
    /// Seconds of a load.
    pub(crate) load: Average,
    /// Seconds of a request, without waiting and loading.
    pub(crate) service: Average,
}

/// A request in flight, as its end needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) server: ServerId,
    pub(crate) sent: Instant,
    pub(crate) first_byte: Option<Instant>,
    /// The other requests in flight when it was sent.
    pub(crate) others: u32,
    /// It loads the model.
    pub(crate) loads: bool,
    /// The load does not wait for another model to be idle, so its time is that of a load.
    pub(crate) loads_at_once: bool,
    /// Its first byte is the first token, and not the whole response.
    pub(crate) streams: bool,
    /// The part of the prompt that is probably in the prefix cache.
    pub(crate) cached: f64,
    /// The requests that it seems to have waited for in the server.
    pub(crate) looks_waited: Option<u32>,
    /// The `num_ctx` that was sent.
    pub(crate) num_ctx: Option<u64>,
    /// It is a load by the gateway itself, and no request of a client.
    pub(crate) is_own: bool,
}

/// What a response says at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// Prompt tokens, those in the cache included.
    pub(crate) prompt_tokens: u64,
    /// Output tokens.
    pub(crate) output_tokens: u64,
    /// The durations, if the server tells them.
    pub(crate) phases: Option<Phases>,
}

/// The durations of a response by the server's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    pub(crate) load: Duration,
    pub(crate) prompt: Duration,
    pub(crate) output: Duration,
    pub(crate) total: Duration,
}

impl Lane {
    pub(crate) fn new(server: ServerId, slots: Option<u32>) -> Self {
        Self {
            server,
            residency: Residency::Unknown,
            is_kept: false,
            changed: None,
            resident_since: None,
            expires: None,
            bytes: 0,
            load_factor: 1.0,
            is_pinned: false,
            in_flight: 0,
            running: 0,
            has_answered: false,
            last_end: None,
            last_sent: None,
            slots: SlotLimit::new(slots),
            is_full_elsewhere: false,
            is_usable: true,
            resting_until: None,
            prefixes: PrefixCache::default(),
            context: Context::default(),
            old_context: None,
            rates: Rates::default(),
        }
    }

    /// Whether a request can run without a load.
    pub(crate) fn is_warm(&self) -> bool {
        matches!(
            self.residency,
            Residency::Unknown | Residency::Resident { .. }
        )
    }

    /// Whether a request may have to wait for a load, as far as this lane tells.
    pub(crate) fn may_be_cold(&self, now: Instant) -> bool {
        match self.residency {
            Residency::Loading(_) | Residency::Cold => true,
            Residency::Unknown => !self.has_answered,
            Residency::Resident { .. } => {
                let has_expired = self.expires.is_some_and(|at| at <= now);
                has_expired && self.in_flight == 0
            }
        }
    }

    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now < until)
    }

    /// The expected seconds of a load: measured, or assumed for its size and corrected by what other
    /// loads have taken.
    pub(crate) fn load_seconds(&self) -> f64 {
        let measured = self.rates.load.get();
        measured.unwrap_or_else(|| self.load_factor * self.assumed_load())
    }

    /// The seconds of the last loads as a multiple of what is assumed without a measurement.
    pub(crate) fn measured_load_factor(&self) -> Option<f64> {
        Some(self.rates.load.get()? / self.assumed_load())
    }

    fn assumed_load(&self) -> f64 {
        match self.bytes {
            0 => LOAD_SECONDS,
            bytes => 0.5 + bytes as f64 * LOAD_SECONDS_PER_BYTE,
        }
    }

    /// Counts a request that is sent.
    pub(super) fn depart(&mut self, now: Instant) {
        self.in_flight += 1;
        self.last_sent = Some(now);
    }

    /// The expected seconds until a slot is free, if none is: the slots end one after the other.
    ///
    /// Slots that stay taken for longer than a response usually takes have longer responses. How long
    /// these take is not known, and that they take as long again is the best guess (Lindy's law). The
    /// same holds before the first response, when nothing is usual.
    pub(crate) fn until_free(&self, now: Instant, service: f64) -> f64 {
        let slots = self.slots.at_once(now);
        let excess = self.in_flight.saturating_sub(slots);
        let since = self.last_sent.max(self.last_end).max(self.resident_since);
        // The server can be full with requests for other models: then nothing is known of the slots here.
        let taken = match self.in_flight >= slots {
            true => since.map_or(0.0, |since| seconds(since, now)),
            false => 0.0,
        };
        let first = match taken > service {
            true => taken,
            false => service / f64::from(slots.saturating_add(1)),
        };
        first + f64::from(excess) * service / f64::from(slots)
    }

    /// The expected seconds until no request is in flight.
    pub(crate) fn until_idle(&self, service: f64) -> f64 {
        match self.in_flight {
            0 => 0.0,
            requests => {
                let slots = self.slots.known().max(1);
                service * f64::from(requests.div_ceil(slots)) * 0.75
            }
        }
    }

    /// Changes the residency, as seen by the gateway now.
    pub(crate) fn set_residency(&mut self, residency: Residency, now: Instant) {
        let was_warm = self.is_warm();
        self.residency = residency;
        self.changed = Some(now);
        self.resting_until = None;
        self.old_context = None;
        match self.is_warm() {
            true if !was_warm => self.resident_since = Some(now),
            true => {}
            false => {
                self.resident_since = None;
                self.prefixes.clear();
                self.context.unloaded();
            }
        }
    }

    /// What happens to the context that a request asks for.
    pub(crate) fn plan(&self, ask: &Ask<'_>) -> ContextPlan {
        let (num_ctx, may_change) = (ask.num_ctx, ask.may_change_num_ctx);
        if self.is_kept {
            return ContextPlan {
                num_ctx,
                reloads: false,
            };
        }
        match self.residency {
            Residency::Resident { context } => self.context.plan(num_ctx, may_change, context),
            Residency::Unknown => self.context.plan(num_ctx, may_change, None),
            Residency::Loading(_) | Residency::Cold => ContextPlan {
                num_ctx: self.context.num_ctx_of_load(num_ctx, may_change),
                reloads: true,
            },
        }
    }

    /// Records that a request was answered well. Returns whether the size of the context is not
    /// known any more.
    pub(crate) fn answered(&mut self, flight: &Flight, now: Instant) -> bool {
        if self.is_kept {
            return false;
        }
        let has_changed = self.context.answered(flight.num_ctx, now);
        if let (true, Residency::Resident { context }) = (has_changed, &mut self.residency) {
            *context = self.context.expected();
            return context.is_none();
        }
        false
    }

    /// Records the first byte of a good response.
    pub(crate) fn first_byte(&mut self, flight: &mut Flight, now: Instant) {
        flight.first_byte = Some(now);
        self.has_answered = true;
        if !flight.streams {
            return;
        }
        self.running += 1;
        self.slots.ran_together(self.running);
        // A wait shows when most of the time to the first byte had passed before another request
        // ended, and the rest was short.
        let waited = self.last_end.is_some_and(|end| {
            let (waited, rest) = (seconds(flight.sent, end), seconds(end, now));
            waited > SHORTEST_WAIT && waited > 3.0 * rest
        });
        // It waited for those that run now and the one that ended in its place.
        flight.looks_waited = (waited && flight.others >= self.running).then_some(self.running);
    }

    /// Records the end of a request; `report` is what a complete response said.
    pub(crate) fn end(&mut self, flight: &Flight, report: Option<Report>, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if flight.is_own {
            if let Some(phases) = report.and_then(|report| report.phases) {
                self.rates.load.add_time(phases.load.as_secs_f64());
            }
            return;
        }
        if flight.streams && flight.first_byte.is_some() {
            self.running = self.running.saturating_sub(1);
        }
        if let (Some(report), Some(first_byte)) = (report, flight.first_byte) {
            match report.phases {
                Some(phases) => self.measure(flight, report, phases, now),
                None => self.measure_by_clock(flight, first_byte, report, now),
            }
        }
        self.last_end = Some(now);
    }

    /// Ollama's own dialect: by the server's clock.
    fn measure(&mut self, flight: &Flight, report: Report, phases: Phases, now: Instant) {
        let (prompt, output) = (phases.prompt.as_secs_f64(), phases.output.as_secs_f64());
        let computed = report.prompt_tokens as f64 * (1.0 - flight.cached);
        if prompt > 0.0 && computed > 0.0 {
            self.rates.prefill.add(computed / prompt);
        }
        if output > 0.0 && report.output_tokens > 0 {
            self.rates.decode.add(report.output_tokens as f64 / output);
        }
        if flight.loads_at_once {
            self.rates.load.add_time(phases.load.as_secs_f64());
        }
        let service = prompt + output;
        if service <= 0.0 {
            return;
        }
        self.rates.service.add(service);
        let others = phases.load.as_secs_f64() + service;
        let waited = phases.total.as_secs_f64() - others;
        if waited > SHORTEST_WAIT && waited > 0.3 * service {
            if !flight.loads {
                self.slots.waited_behind(self.waited_behind(flight), now);
            }
        } else if !flight.streams {
            // A response that did not wait ran beside those that were in flight all the time.
            self.slots
                .ran_together(flight.others.min(self.in_flight) + 1);
        }
    }

    /// The slots that a request has found taken. Others in flight can have waited too; streams show
    /// how many have run.
    fn waited_behind(&self, flight: &Flight) -> u32 {
        match flight.streams {
            true => flight.others.min(self.slots.proven()),
            false => flight.others,
        }
    }

    /// The other dialects: by the gateway's clock.
    fn measure_by_clock(
        &mut self,
        flight: &Flight,
        first_byte: Instant,
        report: Report,
        now: Instant,
    ) {
        let (until_first, after) = (seconds(flight.sent, first_byte), seconds(first_byte, now));
        if flight.loads {
            return;
        }
        if flight.streams {
            if flight.others > 0 {
                self.slots.looks_waited(flight.looks_waited, now);
            }
            if report.output_tokens > 1 && after > 0.0 {
                self.rates
                    .decode
                    .add((report.output_tokens - 1) as f64 / after);
            }
            let computed = report.prompt_tokens as f64 * (1.0 - flight.cached);
            if flight.others < self.slots.known() && computed > 0.0 && until_first > 0.0 {
                self.rates.prefill.add(computed / until_first);
                self.rates.service.add(until_first + after);
            }
            return;
        }
        // A response of one object. Alone it shows the time of a request. Beside others it shows,
        // by the time since the last of them ended, whether it waited.
        let alone = self.rates.service.get();
        let begun = self
            .last_end
            .map_or(flight.sent, |end| end.max(flight.sent));
        match (flight.others, alone) {
            (0, _) => self.rates.service.add(until_first + after),
            (_, Some(alone)) if seconds(begun, now) < 0.5 * alone => {
                self.slots
                    .ran_together(flight.others.min(self.in_flight) + 1);
            }
            _ => {}
        }
    }
}

pub(super) fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
