//! Logs and counts what happens with Redis.

use std::sync::Arc;

use llamatower_layers::redis::{RedisAddress, RedisCall, RedisObserver, RedisStatus};

use super::WithoutRedis;
use crate::telemetry::Metrics;

pub(super) struct Observer {
    metrics: Arc<Metrics>,
    address: RedisAddress,
    rates: WithoutRedis,
    tokens: WithoutRedis,
}

impl Observer {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        address: RedisAddress,
        rates: WithoutRedis,
        tokens: WithoutRedis,
    ) -> Self {
        Self {
            metrics,
            address,
            rates,
            tokens,
        }
    }
}

impl RedisObserver for Observer {
    fn called(&self, call: &RedisCall) {
        self.metrics.called_redis(call);
    }

    /// Told at the start and at the end of a failure, and not for each attempt to connect.
    fn changed(&self, before: &RedisStatus, now: &RedisStatus) {
        let redis = &self.address;
        match (before.is_connected, now.is_connected, &now.problem) {
            (false, true, _) => {
                tracing::info!(%redis, since = %before.since, "Redis is connected: limits are shared");
            }
            (_, false, Some(problem)) if before.is_connected || is_first(before) => {
                tracing::warn!(
                    %redis,
                    problem,
                    requests = self.rates.consequence(),
                    tokens = self.tokens.consequence(),
                    "Redis does not answer; LLAMATOWER_REDIS_DOWN_RATES and LLAMATOWER_REDIS_DOWN_TOKENS \
                     say what happens to requests until it does"
                );
            }
            (true, true, Some(problem)) if before.problem.is_none() => {
                tracing::warn!(
                    %redis,
                    problem,
                    requests = self.rates.consequence(),
                    tokens = self.tokens.consequence(),
                    "Redis refuses calls; check its memory and the rights of its user"
                );
            }
            (true, true, None) => tracing::info!(%redis, "Redis accepts calls again"),
            (_, _, problem) => tracing::debug!(%redis, problem, "Redis"),
        }
    }
}

/// Whether the gateway has just started.
fn is_first(before: &RedisStatus) -> bool {
    before.problem.as_deref() == Some(RedisStatus::NOT_YET)
}
