//! Checks the Redis of several gateways: whether it can be reached, answers in time, and can be written.

use std::sync::LazyLock;
use std::time::Duration;

use llamatower_layers::redis::{Redis, RedisConfig, RedisScript};
use tokio::time::{Instant, timeout};

use super::report::Level::{Error, Note};
use super::report::Report;
use crate::settings::Settings;

/// Writes and reads a key that expires.
static TRIAL: LazyLock<RedisScript> = LazyLock::new(|| {
    RedisScript::new(
        "redis.call('SET', KEYS[1], '1', 'PX', 1000) return {redis.call('GET', KEYS[1])}",
    )
});

/// The time to connect.
const LIMIT: Duration = Duration::from_secs(3);

/// Connects and writes a key, if Redis is used.
pub(super) async fn examine(settings: &Settings, report: &mut Report) {
    let sharing = &settings.sharing;
    let Some(address) = &sharing.redis else {
        return;
    };
    let config = RedisConfig::new(address.clone())
        .with_prefix(sharing.redis_prefix.clone())
        .with_deadline(sharing.redis_timeout);
    let redis = Redis::start(config);
    let place = address.to_string();
    if timeout(LIMIT, redis.connected()).await.is_err() {
        let problem = redis.status().problem.unwrap_or_default();
        report.add(
            Error,
            "redis_unreachable",
            place,
            format!("Redis cannot be used: {problem}"),
            "check the address and the password in LLAMATOWER_REDIS_URL and the network; if Redis is far \
             away, raise LLAMATOWER_REDIS_TIMEOUT",
        );
        return;
    }
    let key = redis.key("doctor", "trial");
    let began = Instant::now();
    match redis.run("trial", &TRIAL, &[&key], &[]).await {
        Ok(_) => report.add(
            Note,
            "redis_ready",
            place,
            format!("Redis can be written, and answers in {:.1?}", began.elapsed()),
            "",
        ),
        Err(error) => report.add(
            Error,
            "redis_refuses",
            place,
            format!("{error}"),
            "give Redis memory (maxmemory), and the user of LLAMATOWER_REDIS_URL the right to run scripts \
             and to write keys with LLAMATOWER_REDIS_PREFIX",
        ),
    }
}
