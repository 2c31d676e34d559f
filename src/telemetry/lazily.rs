//! Instruments that are bound to their attributes at the first record.

use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram};

/// An instrument that can be bound to attributes.
pub(super) trait Instrument: Clone {
    /// What it records.
    type Value: Copy;
    /// With its attributes.
    type Bound;

    fn bind_to(&self, attributes: &[KeyValue]) -> Self::Bound;
    fn record(bound: &Self::Bound, value: Self::Value);
}

impl<T: Copy> Instrument for Histogram<T> {
    type Value = T;
    type Bound = BoundHistogram<T>;

    fn bind_to(&self, attributes: &[KeyValue]) -> BoundHistogram<T> {
        self.bind(attributes)
    }
    fn record(bound: &BoundHistogram<T>, value: T) {
        bound.record(value);
    }
}

impl<T: Copy> Instrument for Counter<T> {
    type Value = T;
    type Bound = BoundCounter<T>;

    fn bind_to(&self, attributes: &[KeyValue]) -> BoundCounter<T> {
        self.bind(attributes)
    }
    fn record(bound: &BoundCounter<T>, value: T) {
        bound.add(value);
    }
}

/// An instrument with its attributes. It is bound at the first record, because a bound one is
/// exported even without a value.
pub(super) struct Lazily<I: Instrument> {
    bound: OnceLock<I::Bound>,
    instrument: I,
    attributes: Vec<KeyValue>,
}

impl<I: Instrument> Lazily<I> {
    pub(super) fn new(instrument: &I, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        Self {
            bound: OnceLock::new(),
            instrument: instrument.clone(),
            attributes: attributes.into_iter().collect(),
        }
    }

    pub(super) fn record(&self, value: I::Value) {
        I::record(self.bound(), value);
    }

    /// Binds it now, so that it is exported without a value.
    pub(super) fn bound(&self) -> &I::Bound {
        let bind = || self.instrument.bind_to(&self.attributes);
        self.bound.get_or_init(bind)
    }
}
