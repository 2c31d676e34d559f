//! The calls of Redis.

use llamatower_layers::redis::{RedisCall, RedisCallResult};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

use super::lazily::Lazily;
use super::names;

/// The calls for which requests wait. Their series are bound: each request with a limit makes one.
const OF_REQUESTS: [&str; 3] = ["admit", "take", "reserve"];

pub(super) struct RedisCalls {
    all: Histogram<f64>,
    answered: [Lazily<Histogram<f64>>; OF_REQUESTS.len()],
}

impl RedisCalls {
    pub(super) fn new(meter: &Meter) -> Self {
        let all = meter
            .f64_histogram(names::REDIS_CALL)
            .with_unit("s")
            .with_boundaries(names::REDIS_SECONDS.to_vec())
            .with_description("Calls of Redis, by operation and result")
            .build();
        let answered = |operation| Lazily::new(&all, labels(operation, RedisCallResult::Answered));
        Self {
            answered: OF_REQUESTS.map(answered),
            all,
        }
    }

    pub(super) fn record(&self, call: &RedisCall) {
        let seconds = call.duration.as_secs_f64();
        let is_answered = call.result == RedisCallResult::Answered;
        let of_requests = OF_REQUESTS.iter().zip(&self.answered);
        let bound = of_requests
            .filter(|_| is_answered)
            .find(|(operation, _)| **operation == call.operation);
        match bound {
            Some((_, bound)) => bound.record(seconds),
            None => self
                .all
                .record(seconds, &labels(call.operation, call.result)),
        }
    }
}

fn labels(operation: &'static str, result: RedisCallResult) -> [KeyValue; 2] {
    [
        KeyValue::new(names::OPERATION, operation),
        KeyValue::new(names::RESULT, result.name()),
    ]
}
