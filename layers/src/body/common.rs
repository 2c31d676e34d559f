//! Replays of the bodies of other crates.

use http_body_util::{Either, Empty, Full};

use super::Replay;

impl<D: Clone> Replay for Full<D> {
    fn replay(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<D> Replay for Empty<D> {
    fn replay(&self) -> Option<Self> {
        Some(*self)
    }
}

impl<L: Replay, R: Replay> Replay for Either<L, R> {
    fn replay(&self) -> Option<Self> {
        match self {
            Self::Left(body) => body.replay().map(Self::Left),
            Self::Right(body) => body.replay().map(Self::Right),
        }
    }
}

/// Copies the bytes.
impl Replay for String {
    fn replay(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl Replay for () {
    fn replay(&self) -> Option<Self> {
        Some(())
    }
}

impl<B: Replay> Replay for Box<B> {
    fn replay(&self) -> Option<Self> {
        B::replay(self).map(Box::new)
    }
}
