//! The part of the layer that counts: what is kept, what is reserved, what is refused.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::SizeHint;
use tokio::time::Instant;

use super::{BodyMemoryExhausted, BodyTooLarge};
use crate::Failure;
use crate::body::{MemoryBudget, ReplayBody, Reservation, Segments};

/// What a body of unknown length reserves at first; each further step doubles what it holds,
/// by [`LARGEST_STEP`] at most.
const FIRST_STEP: u64 = 64 << 10;
const LARGEST_STEP: u64 = 1 << 20;

/// Neighbours below this size are joined. A handle to a piece costs 32 bytes and more, so a
/// body sent in chunks of one byte would else hold many times the memory that it reserved.
const SMALL: usize = 2 << 10;
/// Where the joining of small pieces begins anew.
const BLOCK: usize = 64 << 10;

/// How fast a body must come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) read_timeout: Duration,
    pub(super) bytes_per_second: u64,
}

impl Pace {
    /// When a body of which so much has come must go on at the latest.
    fn deadline(&self, started: Instant, received: u64) -> Option<Instant> {
        let earned = received.checked_div(self.bytes_per_second)?;
        let allowed = self.read_timeout.checked_add(Duration::from_secs(earned))?;
        started.checked_add(allowed)
    }
}

/// A body while it is being read.
#[derive(Debug)]
pub(super) struct Buffering {
    limit: u64,
    reservation: Reservation,
    received: u64,
    segments: Segments,
    // Small pieces that have not become a segment yet; they come after all segments.
    joined: BytesMut,
    pace: Pace,
    started: Option<Instant>,
}

impl Buffering {
    /// Reserves the memory for a body of which the head says `hint`.
    pub(super) fn begin(
        hint: &SizeHint,
        limit: u64,
        budget: &MemoryBudget,
        pace: Pace,
    ) -> Result<Self, Failure> {
        // What can never fit must not be told to try again.
        let limit = limit.min(budget.capacity());
        if hint.lower() > limit {
            return Err(BodyTooLarge { limit }.into());
        }
        let reservation = budget
            .try_reserve(hint.exact().unwrap_or_else(|| hint.lower()))
            .ok_or(BodyMemoryExhausted)?;
        Ok(Self {
            limit,
            reservation,
            received: 0,
            segments: Segments::new(),
            joined: BytesMut::new(),
            pace,
            started: None,
        })
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), Failure> {
        self.received = self.received.saturating_add(piece.len() as u64);
        if self.received > self.limit {
            return Err(BodyTooLarge { limit: self.limit }.into());
        }
        self.reserve()?;
        if piece.len() >= SMALL {
            self.flush();
            self.segments.push(piece);
        } else if !self.joined.is_empty() {
            if self.joined.len() + piece.len() > BLOCK {
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
        let is_small = self.segments.last()?.len() < SMALL;
        if is_small { self.segments.pop() } else { None }
    }

    fn reserve(&mut self) -> Result<(), Failure> {
        let held = self.reservation.bytes();
        let Some(needed) = self.received.checked_sub(held).filter(|needed| *needed > 0) else {
            return Ok(());
        };
        let step = held
            .clamp(FIRST_STEP, LARGEST_STEP)
            .min(self.limit - held)
            .max(needed);
        let granted = self.reservation.try_grow(step) || self.reservation.try_grow(needed);
        granted
            .then_some(())
            .ok_or_else(|| BodyMemoryExhausted.into())
    }

    fn flush(&mut self) {
        if !self.joined.is_empty() {
            // A fresh block for what follows: a shared one would be kept whole by its last piece.
            self.segments
                .push(std::mem::take(&mut self.joined).freeze());
        }
    }

    /// The longest pause between two pieces.
    pub(super) fn read_timeout(&self) -> Duration {
        self.pace.read_timeout
    }

    /// When the body must have gone on, so as to keep its mean rate.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let started = *self.started.get_or_insert_with(Instant::now);
        self.pace.deadline(started, self.received)
    }

    /// The body, at its end.
    pub(super) fn finish<B>(mut self) -> ReplayBody<B> {
        self.flush();
        self.reservation.shrink_to(self.received);
        ReplayBody::buffered(self.segments, Some(self.reservation))
    }
}
