//! The slot that a request holds to the end of its response.

use std::sync::Arc;

use llamatower_layers::usage::Usage;
use llamatower_layers::{ModelName, Record, queue};

use super::Dispatcher;
use super::estimates::{Estimates, real_cost};
use super::flight::Flight;
use super::member::Slot;
use super::policy::{Phases, Report};

/// A slot that a request holds. Dropping it releases the slot, and reports the request's cost to the
/// queue and to the estimates. An attempt that has failed costs its client nothing, and its time says
/// nothing about how long slots are held.
#[derive(Debug)]
pub struct Permit<S> {
    held: Held<S>,
}

#[derive(Debug)]
enum Held<S> {
    Queued {
        /// `None` after drop.
        permit: Option<queue::Permit<Dispatcher<S>>>,
        accounting: Accounting,
    },
    Unqueued {
        slot: Slot<S>,
    },
}

/// Where the cost of a request comes from, and where it goes.
#[derive(Debug)]
pub(super) struct Accounting {
    pub(super) record: Option<Record>,
    pub(super) body_bytes: u64,
    pub(super) estimates: Arc<Estimates>,
}

impl<S> Permit<S> {
    pub(super) fn queued(permit: queue::Permit<Dispatcher<S>>, accounting: Accounting) -> Self {
        let permit = Some(permit);
        Self {
            held: Held::Queued { permit, accounting },
        }
    }

    pub(super) fn unqueued(slot: Slot<S>) -> Self {
        Self {
            held: Held::Unqueued { slot },
        }
    }

    /// Records that the backend was told to unload a model: the models in its memory are read again
    /// until this one is gone.
    pub(crate) fn note_unloaded(&self, model: &ModelName) {
        let slot = match &self.held {
            Held::Unqueued { slot } => Some(slot),
            Held::Queued { permit, .. } => permit.as_ref().map(|permit| permit.slot()),
        };
        if let Some(slot) = slot {
            slot.member().residency.note_unloaded(model);
        }
    }
}

impl Accounting {
    /// The tokens of the request, if they were counted.
    fn usage(&self) -> Option<Usage> {
        let report = self.record.as_ref()?.usage_report()?;
        report.get()?.usage
    }
}

impl<S> Drop for Permit<S> {
    fn drop(&mut self) {
        let Held::Queued { permit, accounting } = &mut self.held else {
            return;
        };
        let Some(permit) = permit.take() else {
            return;
        };
        if permit.slot().flight().is_some_and(Flight::has_failed) {
            return permit.unused();
        }
        let Some(usage) = accounting.usage() else {
            return;
        };
        if let Some(model) = &permit.class().model {
            let client = permit.key().as_ref();
            let estimates = &accounting.estimates;
            estimates.record(model, client, accounting.body_bytes, &usage);
        }
        let slot = permit.slot();
        if let Some(flight) = slot.flight() {
            let mut report = report(usage);
            if slot.member().backend.openai().is_some() {
                // They are the gateway's own clock, which does not see a wait in the server.
                report.phases = None;
            }
            flight.complete(report);
        }
        permit.settle(real_cost(&usage));
    }
}

/// What the policy learns from a response.
fn report(usage: Usage) -> Report {
    Report {
        prompt_tokens: usage.prompt_tokens,
        output_tokens: usage.output_tokens,
        phases: usage.timings.map(|timings| Phases {
            load: timings.load,
            prompt: timings.prompt,
            output: timings.output,
            total: timings.total,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::convert::Infallible;

    use http::header::CONTENT_TYPE;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use llamatower_layers::ModelName;
    use llamatower_layers::outcome::Outcome;
    use llamatower_layers::queue::{Entry, Queue};
    use llamatower_layers::usage::UsageLayer;
    use tokio::time::Instant;
    use tower::{Layer, ServiceExt, service_fn};

    use super::super::catalogue::Catalogue;
    use super::super::dispatch::{Class, Need};
    use super::super::member::tests::member;
    use super::super::router::Router;
    use super::*;
    use crate::clients::Client;

    /// The record of a request that was answered with these tokens.
    async fn answered(usage: &'static str) -> Record {
        let record = Record::new(Outcome::starting(Instant::now()));
        let mut request = Request::new(());
        record.clone().put_into(request.extensions_mut());
        let answer = |_| async {
            let answer = Response::builder().header(CONTENT_TYPE, "application/json");
            Ok::<_, Infallible>(answer.body(Full::from(usage)).unwrap())
        };
        let service = UsageLayer::new().layer(service_fn(answer));
        let answer = service.oneshot(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
        record
    }

    #[tokio::test]
    async fn a_request_that_ends_teaches_what_the_next_one_costs() {
        let router = Router::default();
        let catalogue = Catalogue::new(vec![vec![member("a", Some(1), &router)]]);
        let queue = Queue::new(Dispatcher::new(Arc::new(catalogue), router));
        let model = ModelName::parse("m").unwrap();
        let class = Class {
            model: Some(model.clone()),
            runs_model: true,
        };
        let ada = Client::Key("ada".into());
        let estimates = Arc::new(Estimates::default());
        let expected = || estimates.expected(Some(&model), Some(&ada), 400).cost();
        assert_eq!(expected(), 100 + 256);
        for (usage, then) in [
            ("{\"done\":true}", 100 + 256),
            (
                "{\"done\":true,\"prompt_eval_count\":50,\"eval_count\":7}",
                50 + 2 * 7,
            ),
        ] {
            let ticket = queue.enter(
                class.clone(),
                Entry::new(Some(ada.clone()), Need::default()),
            );
            let report = Accounting {
                record: Some(answered(usage).await),
                body_bytes: 400,
                estimates: estimates.clone(),
            };
            drop(Permit::queued(ticket.unwrap().await.unwrap(), report));
            assert_eq!(expected(), then, "after {usage}");
            assert_eq!(queue.class(&class).unwrap().in_flight, 0);
        }
    }
}
