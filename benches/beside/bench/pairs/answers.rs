//! The layers that follow an answer.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use http::{Request, Response, StatusCode};
use llamatower_layers::clocks::StreamClocksLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use llamatower_layers::{BoxError, Failure, Observer, Outcome, OutcomeLayer};
use tower::ServiceBuilder;
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Policy, RetryLayer as TowerRetryLayer};
use tower::timeout::TimeoutLayer as TowerTimeoutLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;
use tower_resilience_fallback::FallbackLayer;
use tower_resilience_retry::{RetryBudgetBuilder, RetryLayer as ResilienceRetryLayer};

use super::{buffering, endpoints};

use crate::exchange::{Backend, ClientBody, Lines};
use crate::side::{Group, Peer, Side, Unreachable};

const LIMIT: Duration = Duration::from_secs(900);

pub(super) fn clocks(backend: &Backend) -> Group {
    let tower_http = ServiceBuilder::new()
        .layer(ResponseBodyTimeoutLayer::new(LIMIT))
        .layer(RequestBodyTimeoutLayer::new(LIMIT))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            LIMIT,
        ));
    let head = ServiceBuilder::new().layer(TowerTimeoutLayer::new(LIMIT));
    let ours = ServiceBuilder::new().layer(StreamClocksLayer::new());
    Group {
        layer: "StreamClocks",
        ours: Side::new(ours.service(backend.clone()), backend.clone()),
        peers: vec![
            Peer {
                name: "tower-http Timeout + RequestBodyTimeout + ResponseBodyTimeout",
                side: Side::new(tower_http.service(backend.clone()), backend.clone()),
                remark: "the time of the head includes the request's body",
            },
            Peer {
                name: "tower Timeout",
                side: Side::new(head.service(backend.clone()), backend.clone()),
                remark: "no time for chunks",
            },
        ],
    }
}

pub(super) fn retry(backend: &Backend) -> Group {
    let ours = buffering().layer(RetryLayer::new(RetryBudget::default()));
    let tower = ServiceBuilder::new().layer(TowerRetryLayer::new(OnFailure::new()));
    let budget = RetryBudgetBuilder::new().token_bucket().build();
    let resilience =
        ResilienceRetryLayer::<Request<ClientBody>, Response<Lines>, BoxError>::builder()
            .max_attempts(3)
            .retry_on_response(|answer: &Response<Lines>| is_busy(answer))
            .budget(budget.expect("valid settings"))
            .build();
    let resilience = ServiceBuilder::new().layer(resilience);
    Group {
        layer: "Retry",
        ours: Side::new(
            ours.service(backend.clone()),
            buffering().service(backend.clone()),
        ),
        peers: vec![
            Peer {
                name: "tower Retry, with a TpsBudget",
                side: Side::new(tower.service(backend.clone()), backend.clone()),
                remark: "the policy is the user's; it clones the whole request",
            },
            Peer {
                name: "tower-resilience Retry, with a budget",
                side: Side::new(resilience.service(backend.clone()), backend.clone()),
                remark: "repeats any request",
            },
        ],
    }
}

pub(super) fn panic_guard(backend: &Backend) -> Group {
    let ours = ServiceBuilder::new().layer(PanicGuardLayer::new());
    let peer = ServiceBuilder::new().layer(CatchPanicLayer::new());
    Group {
        layer: "PanicGuard",
        ours: Side::new(ours.service(backend.clone()), backend.clone()),
        peers: vec![Peer {
            name: "tower-http CatchPanic",
            side: Side::new(peer.service(backend.clone()), backend.clone()),
            remark: "catches no panic of a body",
        }],
    }
}

pub(super) fn outcome(backend: &Backend) -> Group {
    struct NoObserver;
    impl Observer for NoObserver {
        fn finished(&self, _: &Outcome) {}
    }
    let ours = endpoints().layer(OutcomeLayer::new(Arc::new(NoObserver)));
    let peer = ServiceBuilder::new().layer(TraceLayer::new_for_http());
    Group {
        layer: "Outcome",
        ours: Side::new(
            ours.service(backend.clone()),
            endpoints().service(backend.clone()),
        ),
        peers: vec![Peer {
            name: "tower-http Trace",
            side: Side::new(peer.service(backend.clone()), backend.clone()),
            remark: "without a subscriber, as ours has an observer that does nothing",
        }],
    }
}

pub(super) fn rescue(backend: &Backend) -> Group {
    let ours = || endpoints().layer(RescueLayer::new());
    let to_answer = |error: &BoxError| {
        let mut answer = Response::new(Lines::default());
        *answer.status_mut() = status_of(error);
        answer
    };
    let resilience = || {
        let layer =
            FallbackLayer::<Request<ClientBody>, Response<Lines>, BoxError>::from_error(to_answer);
        ServiceBuilder::new().layer(layer)
    };
    let axum = || {
        let handler = |error: BoxError| ready((status_of(&error), error.to_string()));
        ServiceBuilder::new().layer(HandleErrorLayer::new(handler))
    };
    Group {
        layer: "Rescue",
        ours: Side::new(
            ours().service(backend.clone()),
            endpoints().service(backend.clone()),
        )
        .refusing(ours().service(Unreachable)),
        peers: vec![
            Peer {
                name: "axum HandleError",
                side: Side::new(axum().service(backend.clone()), backend.clone())
                    .refusing(axum().service(Unreachable)),
                remark: "an error in the stream breaks it off; text in place of JSON",
            },
            Peer {
                name: "tower-resilience Fallback",
                side: Side::new(resilience().service(backend.clone()), backend.clone())
                    .refusing(resilience().service(Unreachable)),
                remark: "an error in the stream breaks it off; an empty answer",
            },
        ],
    }
}

fn status_of(error: &BoxError) -> StatusCode {
    let failure = Failure::find(&**error);
    failure.map_or(StatusCode::INTERNAL_SERVER_ERROR, Failure::status)
}

fn is_busy<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::SERVICE_UNAVAILABLE
}

/// What tower's documentation shows: errors and busy servers, within a budget.
#[derive(Clone)]
struct OnFailure {
    budget: Arc<TpsBudget>,
    retries: usize,
}

impl OnFailure {
    fn new() -> Self {
        Self {
            budget: Arc::new(TpsBudget::default()),
            retries: 2,
        }
    }
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, BoxError> for OnFailure {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        answer: &mut Result<Response<R>, BoxError>,
    ) -> Option<Ready<()>> {
        if answer.as_ref().is_ok_and(|answer| !is_busy(answer)) {
            self.budget.deposit();
            return None;
        }
        self.retries = self.retries.checked_sub(1)?;
        self.budget.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}
