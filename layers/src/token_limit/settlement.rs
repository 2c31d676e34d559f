//! Settles a reservation at the end of the response.

use std::fmt;
use std::sync::Arc;

use http::{Extensions, StatusCode};

use super::TokenStore;
use crate::usage::{ReportPlace, UsageReport};

/// Settles a reservation when it is dropped, from the data about the response at that time.
///
/// Boxed, because each body of a response has one, and is moved often, also where no limit is set.
pub struct Settlement<K, T: TokenStore<K>>(Box<Open<K, T>>);

#[derive(Debug)]
struct Open<K, T: TokenStore<K>> {
    store: Arc<T>,
    reservation: Option<T::Reservation>,
    estimate: u64,
    answer: Answer,
    report_place: ReportPlace,
    /// The attempts that nobody had answered before the reservation: they are those of another service.
    unanswered_before: u32,
}

#[derive(Debug)]
enum Answer {
    /// No response, or a response without inference.
    None,
    /// A response without a usage report.
    Uncounted,
    Counted(UsageReport),
}

impl<K, T> fmt::Debug for Settlement<K, T>
where
    K: fmt::Debug,
    T: TokenStore<K, Reservation: fmt::Debug> + fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K, T: TokenStore<K>> Settlement<K, T> {
    pub(super) fn new(
        store: Arc<T>,
        reservation: T::Reservation,
        estimate: u64,
        report_place: ReportPlace,
    ) -> Self {
        Self(Box::new(Open {
            store,
            reservation: Some(reservation),
            estimate,
            answer: Answer::None,
            unanswered_before: report_place.unanswered(),
            report_place,
        }))
    }

    /// The response head has arrived: from now on tokens may have been used.
    pub(super) fn answered(&mut self, status: StatusCode, answer: &Extensions) {
        self.0.answer = match self.0.report_place.report(answer) {
            _ if !status.is_success() => Answer::None,
            Some(report) => Answer::Counted(report),
            None => Answer::Uncounted,
        };
    }
}

impl<K, T: TokenStore<K>> Open<K, T> {
    fn used(&self) -> u64 {
        match &self.answer {
            // A backend may have worked until the client disconnected, or until a time-out.
            Answer::None if self.report_place.unanswered() > self.unanswered_before => {
                self.estimate
            }
            Answer::None => 0,
            Answer::Uncounted => self.estimate,
            Answer::Counted(report) => match report.get() {
                Some(measured) => match measured.usage {
                    Some(usage) => usage.tokens(),
                    None => self.estimate.saturating_add(measured.items),
                },
                None => self.estimate,
            },
        }
    }
}

impl<K, T: TokenStore<K>> Drop for Open<K, T> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.store.settle(reservation, self.used());
        }
    }
}
