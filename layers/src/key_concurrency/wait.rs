//! The wait of a request for its turns.

use std::hash::Hash;
use std::time::Duration;

use http::{Extensions, Request};
use tokio::time::Instant;
use tower_service::Service;

use super::taking::{Place, Taking, Turns};
use crate::{BoxError, Failure};

/// Waits for all turns, for `max_wait` at most, and calls the service with the request.
pub(super) async fn call<S, B, K>(
    taking: Taking<K>,
    place: Place<K>,
    max_wait: Option<Duration>,
    mut service: S,
    request: Request<B>,
) -> Result<(S::Future, Turns<K>), BoxError>
where
    S: Service<Request<B>>,
    K: Clone + Eq + Hash,
{
    let begun = Instant::now();
    let deadline = max_wait.and_then(|wait| begun.checked_add(wait));
    let told = Told::new(request.extensions(), begun);
    #[cfg(feature = "redis")]
    crate::redis::Admitted::forget_refused_tokens(request.extensions());
    let turns = taking.wait(place, begun, deadline).await;
    let turns = turns.map_err(Failure::from)?;
    drop(told);
    Ok((service.call(request), turns))
}

/// Tells the wait: to the record of the request, also if its client leaves, and in heartbeats.
struct Told {
    #[cfg(feature = "outcome")]
    record: Option<(crate::Record, Instant)>,
    #[cfg(feature = "heartbeat")]
    waiting: Option<crate::heartbeat::Waiting>,
}

impl Told {
    fn new(_extensions: &Extensions, _begun: Instant) -> Self {
        let told = Self {
            #[cfg(feature = "outcome")]
            record: crate::Record::of(_extensions).map(|record| (record.clone(), _begun)),
            #[cfg(feature = "heartbeat")]
            waiting: crate::heartbeat::Waiting::of(_extensions).cloned(),
        };
        #[cfg(feature = "heartbeat")]
        if let Some(waiting) = &told.waiting {
            let text = "waiting until another request of the same client ends";
            waiting.set_description(|| Some(text.to_owned()));
        }
        told
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        #[cfg(feature = "outcome")]
        if let Some((record, since)) = &self.record {
            let time = since.elapsed();
            record.update(|outcome| {
                outcome.queued = Some(outcome.queued.unwrap_or_default() + time);
            });
        }
        #[cfg(feature = "heartbeat")]
        if let Some(waiting) = &self.waiting {
            waiting.set_description(|| None);
        }
    }
}
