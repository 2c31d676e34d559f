//! Which request of a shared exchange reports the usage of its response.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Extensions;

/// The requests of an exchange that have not left. The first of them reports the usage of the response,
/// so that it counts once. If it leaves before the end, the next one does.
#[derive(Debug)]
pub(super) struct Reporters(Mutex<Present>);

#[derive(Debug)]
struct Present {
    /// In the order in which they came.
    requests: VecDeque<(u64, Place)>,
    next_id: u64,
    /// The place of the request that began the exchange: inner layers put the report there.
    leader: Place,
    /// The response has ended: the usage is the first one's, even if it leaves.
    is_over: bool,
}

impl Reporters {
    /// The id of the request that began the exchange.
    pub(super) const LEADER: u64 = 0;

    pub(super) fn new(leader: Place) -> Self {
        Self(Mutex::new(Present {
            requests: VecDeque::from([(Self::LEADER, leader.clone())]),
            next_id: Self::LEADER + 1,
            leader,
            is_over: false,
        }))
    }

    /// Adds a request, and returns its id.
    pub(super) fn join(&self, place: Place) -> u64 {
        let mut present = self.present();
        let id = present.next_id;
        present.next_id += 1;
        present.requests.push_back((id, place));
        if present.requests.len() == 1 {
            present.hand_over();
        }
        id
    }

    pub(super) fn leave(&self, id: u64) {
        let mut present = self.present();
        let was_first = present.is_first(id);
        let leaving = present.requests.iter().position(|(of, _)| *of == id);
        let leaving = leaving.and_then(|at| present.requests.remove(at));
        // The last one ends the exchange, and reports what there was of it.
        if let Some((_, leaving)) = leaving
            && was_first
            && !present.is_over
            && !present.requests.is_empty()
        {
            leaving.give_up();
            present.hand_over();
        }
    }

    /// The head of the response is there, and its report is in the leader's place.
    pub(super) fn begin(&self) {
        self.present().hand_over();
    }

    /// The response has ended, and its report is filled.
    pub(super) fn end(&self) {
        self.present().is_over = true;
    }

    /// Whether this request is the one that reports the usage.
    pub(super) fn is_first(&self, id: u64) -> bool {
        self.present().is_first(id)
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn is_first(&self, id: u64) -> bool {
        self.requests.front().is_some_and(|(first, _)| *first == id)
    }

    fn hand_over(&self) {
        if let Some((_, first)) = self.requests.front() {
            first.take_from(&self.leader);
        }
    }
}

/// Where a request has the report of its response's usage: in its record.
#[derive(Clone, Debug)]
pub(super) struct Place {
    #[cfg(all(feature = "outcome", feature = "usage"))]
    record: Option<crate::Record>,
}

impl Place {
    pub(super) fn of(_request: &Extensions) -> Self {
        Self {
            #[cfg(all(feature = "outcome", feature = "usage"))]
            record: crate::Record::of(_request).cloned(),
        }
    }

    fn take_from(&self, _leader: &Self) {
        #[cfg(all(feature = "outcome", feature = "usage"))]
        if let Some((own, leader)) = self.record.as_ref().zip(_leader.record.as_ref())
            && let Some(report) = leader.usage_report()
        {
            own.set_usage_report(report);
        }
    }

    fn give_up(&self) {
        #[cfg(all(feature = "outcome", feature = "usage"))]
        if let Some(record) = &self.record {
            record.give_up_usage();
        }
    }
}

#[cfg(all(test, feature = "outcome", feature = "usage"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::header::CONTENT_TYPE;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::{BodyExt, Empty, StreamBody};
    use tokio::sync::mpsc;
    use tokio_test::task::spawn;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use crate::body::ReplayBody;
    use crate::cache::CacheLayer;
    use crate::endpoint::EndpointLayer;
    use crate::usage::UsageLayer;
    use crate::{BoxError, EndpointTable, Observer, Outcome, OutcomeLayer};

    const COLD: &str = r#"{"model":"tiny","prompt":"a","options":{"temperature":0}}"#;
    const LINE: &str = "{\"response\":\"a\",\"done\":false}\n";
    const LAST: &str = "{\"done\":true,\"prompt_eval_count\":26,\"eval_count\":3}\n";

    /// The tokens of each request, by its id.
    #[derive(Default)]
    struct Log(Mutex<Vec<(String, u64)>>);

    impl Observer for Log {
        fn finished(&self, outcome: &Outcome) {
            let id = outcome.request_id().unwrap().to_owned();
            let tokens = outcome.usage.map_or(0, |usage| usage.tokens());
            self.0.lock().unwrap().push((id, tokens));
        }
    }

    /// When a client disconnects.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Leaves {
        BeforeTheHead,
        BeforeTheEnd,
        Never,
    }

    /// The tokens of three equal requests.
    async fn tokens_of(clients: [Leaves; 3]) -> [u64; 3] {
        let log = Arc::new(Log::default());
        let (say, said) = mpsc::unbounded_channel::<&'static str>();
        let said = Arc::new(Mutex::new(Some(said)));
        let service = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(OutcomeLayer::new(log.clone()))
            .layer(CacheLayer::new(1 << 20, |_| Some(Arc::from("v1"))))
            .layer(UsageLayer::new())
            .service(service_fn(move |_: Request<ReplayBody<Empty<Bytes>>>| {
                let mut said = said.lock().unwrap().take().unwrap();
                async move {
                    let first = said.recv().await;
                    let lines =
                        futures_util::stream::unfold((first, said), async |(line, mut said)| {
                            let line = line?;
                            let next = said.recv().await;
                            let frame = Frame::data(Bytes::from(line));
                            Some((Ok::<_, BoxError>(frame), (next, said)))
                        });
                    let answer = Response::builder().header(CONTENT_TYPE, "application/x-ndjson");
                    Ok::<_, BoxError>(answer.body(StreamBody::new(Box::pin(lines)))?)
                }
            }));
        let mut heads = Vec::new();
        for number in 0..3 {
            let request = Request::post("/api/generate").header("x-request-id", number);
            let request = request.body(ReplayBody::from(Bytes::from(COLD))).unwrap();
            let mut head = spawn(service.clone().oneshot(request));
            assert!(head.poll().is_pending());
            heads.push(Some(head));
        }
        for (head, leaves) in heads.iter_mut().zip(clients) {
            head.take_if(|_| leaves == Leaves::BeforeTheHead);
        }
        for line in [LINE, LINE] {
            say.send(line).unwrap();
        }
        let mut bodies = Vec::new();
        for head in heads {
            let Some(head) = head else {
                bodies.push(None);
                continue;
            };
            let mut body = Box::pin(head.await.unwrap().into_body());
            body.frame().await.unwrap().unwrap();
            bodies.push(Some(body));
        }
        for (body, leaves) in bodies.iter_mut().zip(clients) {
            body.take_if(|_| leaves == Leaves::BeforeTheEnd);
        }
        say.send(LAST).unwrap();
        drop(say);
        for body in bodies.into_iter().flatten() {
            body.collect().await.unwrap();
        }
        let mut tokens = log.0.lock().unwrap().clone();
        tokens.sort();
        let tokens: Vec<u64> = tokens.into_iter().map(|(_, tokens)| tokens).collect();
        tokens.try_into().unwrap()
    }

    #[tokio::test]
    async fn the_first_request_that_stays_reports_the_usage() {
        use Leaves::{BeforeTheEnd as End, BeforeTheHead as Head, Never};
        for (clients, expected) in [
            ([Never, Never, Never], [29, 0, 0]),
            ([Never, End, Head], [29, 0, 0]),
            ([Head, Never, Never], [0, 29, 0]),
            ([End, Never, Never], [0, 29, 0]),
            ([Head, End, Never], [0, 0, 29]),
            ([End, End, Never], [0, 0, 29]),
            ([Head, Head, Never], [0, 0, 29]),
        ] {
            assert_eq!(tokens_of(clients).await, expected, "{clients:?}");
        }
    }
}
