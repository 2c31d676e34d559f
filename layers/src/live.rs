//! Values that can be replaced while services use them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// A value that many services read and that can be replaced at any time. Clones share the value.
///
/// Reading takes no lock and never waits; it costs about 10 ns.
///
/// ```
/// use llamatower_layers::live::Live;
///
/// let limit = Live::new(3);
/// let seen_by_a_service = limit.clone();
/// limit.set(5);
/// assert_eq!(*seen_by_a_service.get(), 5);
/// ```
pub struct Live<T>(Arc<ArcSwap<T>>);

/// The value at the time of the read. Drop it soon.
pub struct Current<T>(Guard<Arc<T>>);

impl<T> Live<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The current value.
    pub fn get(&self) -> Current<T> {
        Current(self.0.load())
    }

    /// Replaces the value for all later reads.
    pub fn set(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T> Deref for Current<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl<T: fmt::Debug> fmt::Debug for Current<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
