//! Collects a body: what is kept, what is reserved, what is refused.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::SizeHint;
use tokio::time::Instant;

use super::{BodyMemoryExhausted, BodyTooLarge};
use crate::Failure;
use crate::body::{MemoryBudget, Promise, ReplayBody, Reservation, Segments};

/// The reservation of a body without a declared length begins with this, and each further step doubles
/// it, by [`LARGEST_STEP`] at most: a client which sends slowly or nothing holds little more than it has
/// sent. So does one whose declared length is not promised, or no longer.
const FIRST_STEP: u64 = 64 << 10;
const LARGEST_STEP: u64 = 1 << 20;

/// A declared length is reserved as a whole, so that a body which was admitted can be completed. What has
/// not arrived is released when the body is so slow that it would take longer than this. All such promises
/// together are at most half of the budget.
const WHOLE: Duration = Duration::from_secs(60);
/// It stays reserved for this time at least, in which a client can start to send.
const GRACE: Duration = Duration::from_secs(5);

/// Smaller pieces are joined. The handle of a piece costs 32 bytes or more, so a body of one-byte
/// chunks would otherwise hold many times its reserved memory.
const SMALL_PIECE: usize = 2 << 10;
/// The size of a block of joined small pieces.
const JOINED_BLOCK: usize = 64 << 10;

/// The minimum pace of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) read_timeout: Duration,
    pub(super) bytes_per_second: u64,
}

impl Pace {
    /// The time by which a body with this many received bytes must continue.
    fn deadline(&self, started: Instant, received: u64) -> Option<Instant> {
        let earned = received.checked_div(self.bytes_per_second)?;
        let allowed = self.read_timeout.checked_add(Duration::from_secs(earned))?;
        started.checked_add(allowed)
    }
}

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Buffering {
    limit: u64,
    /// The declared length, or the limit.
    expected: u64,
    /// The declared length, or 0.
    declared: u64,
    /// What of it has not arrived, while all of it is reserved.
    promise: Option<Promise>,
    /// Whether it was too slow to keep its promise.
    is_slow: bool,
    reservation: Reservation,
    received: u64,
    segments: Segments,
    // Small pieces that are not a segment yet. They follow all segments.
    joined: BytesMut,
    pace: Pace,
    started: Option<Instant>,
}

impl Buffering {
    /// Reserves the memory for the declared length of a body with this size hint, unless too much is promised to
    /// others.
    pub(super) fn begin(
        hint: &SizeHint,
        limit: u64,
        budget: &MemoryBudget,
        pace: Pace,
    ) -> Result<Self, Failure> {
        // A body that can never fit must not get an error that says "try again".
        let limit = limit.min(budget.capacity());
        if hint.lower() > limit {
            return Err(BodyTooLarge { limit }.into());
        }
        let declared = hint.lower();
        let promise = budget.promise(declared);
        let reservation = match promise {
            Some(_) => budget.try_reserve(declared),
            None if declared > budget.available() => None,
            None => budget.try_reserve(0),
        };
        let reservation = reservation.ok_or(BodyMemoryExhausted)?;
        Ok(Self {
            limit,
            expected: hint.upper().unwrap_or(limit).min(limit),
            declared,
            promise,
            is_slow: false,
            reservation,
            received: 0,
            segments: Segments::new(),
            joined: BytesMut::new(),
            pace,
            started: None,
        })
    }

    /// Adds a piece.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), Failure> {
        self.received = self.received.saturating_add(piece.len() as u64);
        if self.received > self.limit {
            return Err(BodyTooLarge { limit: self.limit }.into());
        }
        match &mut self.promise {
            Some(promise) => promise.arrived(piece.len() as u64),
            None => self.promise_rest(),
        }
        self.reserve()?;
        if piece.len() >= SMALL_PIECE {
            self.flush();
            self.segments.push(piece);
        } else if !self.joined.is_empty() {
            if self.joined.len() + piece.len() > JOINED_BLOCK {
                self.flush();
            }
            self.joined.extend_from_slice(&piece);
        } else if let Some(last) = self.pop_small() {
            self.joined.extend_from_slice(&last);
            self.joined.extend_from_slice(&piece);
        } else {
            self.segments.push(piece);
        }
        Ok(())
    }

    fn pop_small(&mut self) -> Option<Bytes> {
        let is_small = self.segments.last()?.len() < SMALL_PIECE;
        if is_small { self.segments.pop() } else { None }
    }

    /// Promises what is missing, which was not possible at the head because of others: the first to be promised again
    /// can be completed.
    fn promise_rest(&mut self) {
        let rest = self.declared.saturating_sub(self.received);
        if rest == 0 || self.is_slow {
            return;
        }
        let missing = self.declared.saturating_sub(self.reservation.bytes());
        let promise = self.reservation.promise(rest);
        self.promise = promise.filter(|_| self.reservation.try_grow(missing));
    }

    fn reserve(&mut self) -> Result<(), Failure> {
        let held = self.reservation.bytes();
        let Some(needed) = self.received.checked_sub(held).filter(|needed| *needed > 0) else {
            return Ok(());
        };
        let step = held
            .clamp(FIRST_STEP, LARGEST_STEP)
            .min(self.expected.saturating_sub(held))
            .max(needed);
        let granted = self.reservation.try_grow(step) || self.reservation.try_grow(needed);
        granted
            .then_some(())
            .ok_or_else(|| BodyMemoryExhausted.into())
    }

    fn flush(&mut self) {
        if !self.joined.is_empty() {
            // Start a new block: the last piece of a shared block would keep the whole block alive.
            self.segments
                .push(std::mem::take(&mut self.joined).freeze());
        }
    }

    /// The longest pause between two pieces.
    pub(super) fn read_timeout(&self) -> Duration {
        self.pace.read_timeout
    }

    /// The time by which the body must continue to keep its minimum rate.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let started = self.started();
        self.pace.deadline(started, self.received)
    }

    /// When the body was first waited for.
    fn started(&mut self) -> Instant {
        *self.started.get_or_insert_with(Instant::now)
    }

    /// The time by which the body must continue to keep the memory for its declared length; `None` if
    /// that is not reserved, or is little.
    pub(super) fn promise_ends(&mut self) -> Option<Instant> {
        self.promise.as_ref()?;
        let declared = Some(self.declared).filter(|declared| *declared > FIRST_STEP)?;
        let arrived = self.received as f64 / declared as f64;
        self.started()
            .checked_add(WHOLE.mul_f64(arrived).max(GRACE))
    }

    /// Releases the memory for what has not arrived. From now on the body reserves more as it grows.
    pub(super) fn end_promise(&mut self) {
        self.promise = None;
        self.is_slow = true;
        self.reservation.shrink_to(self.received.max(FIRST_STEP));
    }

    /// How long the body was waited for; `None` if all of it was there at once.
    pub(super) fn waited(&self) -> Option<Duration> {
        self.started.map(|started| started.elapsed())
    }

    /// Returns the complete body.
    pub(super) fn finish<B>(mut self) -> ReplayBody<B> {
        self.flush();
        self.reservation.shrink_to(self.received);
        ReplayBody::buffered(self.segments, Some(self.reservation))
    }
}
