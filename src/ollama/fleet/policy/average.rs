//! A moving average of measured values.

/// The weight of the latest value.
const WEIGHT: f64 = 0.2;

/// An exponentially weighted moving average; `None` before the first value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Average(Option<f64>);

impl Average {
    /// Adds a value. Values that are not finite or are negative are ignored.
    pub(crate) fn add(&mut self, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        self.0 = Some(match self.0 {
            Some(average) => average + WEIGHT * (value - average),
            None => value,
        });
    }

    /// Adds a time that may include a wait, which is no part of it: a longer one counts less, and
    /// no more than as twice the average.
    pub(crate) fn add_time(&mut self, value: f64) {
        match self.0 {
            Some(average) if value > average => {
                self.0 = Some(average + 0.05 * (value.min(2.0 * average) - average));
            }
            Some(average) if value >= 0.0 => self.0 = Some(average + 0.5 * (value - average)),
            _ => self.add(value),
        }
    }

    /// The average.
    pub(crate) fn get(self) -> Option<f64> {
        self.0
    }
}
