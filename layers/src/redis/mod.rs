//! Limits that several processes share through Redis.
//!
//! [`RedisBuckets`] is a store for [`rate_limit`](crate::rate_limit), [`RedisTokens`] one for
//! [`token_limit`](crate::token_limit). Alone, each of their layers makes one call for a request;
//! [`RedisLimitsLayer`] asks for several limits in one call. All use one
//! connection ([`Redis`]), whose calls have a deadline. If Redis does not answer within it, requests pass
//! or are refused, as [`WhenUnavailable`](crate::store::WhenUnavailable) says, or a store in memory with a
//! part of the limit is used (`or_memory`). While Redis is known not to answer, calls fail at once.
//!
//! ```text
//! request ── take ── script ──▶ Redis       the deadline has passed, or the connection is broken:
//!              │                              └ further calls fail at once, a task tests and reconnects
//!              └ no answer: pass, refuse, or the buckets in memory
//! ```
//!
//! Redis 6 or later, or Valkey: a single server, one that sentinels name, or a cluster, where all keys are in
//! one hash slot. Every key has the prefix of [`RedisConfig::with_prefix`] and an expiry, and
//! the names of clients are hashed. `rediss://` needs the feature `redis-tls`.
//!
//! A rate for each tenant, over all processes; without Redis, half of it in each of two:
//!
//! ```
//! use std::num::{NonZeroU32, NonZeroUsize};
//!
//! use http::request::Parts;
//! use llamatower_layers::rate_limit::{MemoryBuckets, Quota, RateLimitLayer};
//! use llamatower_layers::redis::{Redis, RedisAddress, RedisBuckets, RedisConfig};
//! use llamatower_layers::store::Replicas;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let address: RedisAddress = "redis://127.0.0.1:6379".parse()?;
//! let redis = Redis::start(RedisConfig::new(address).with_prefix("shop:"));
//! let quota = Quota::per_minute(NonZeroU32::new(600).expect("not zero"));
//! let two = Replicas::new(NonZeroU32::new(2).expect("not zero"));
//! let keys = NonZeroUsize::new(10_000).expect("not zero");
//! let memory = MemoryBuckets::new([quota], keys).with_replicas(two);
//! let store = RedisBuckets::new(redis, "tenants", |tenant: &String| tenant.clone()).or_memory(memory);
//! let layer = RateLimitLayer::with_store(store, [], Some(quota), |request: &Parts| {
//!     let tenant = request.headers.get("x-tenant")?.to_str().ok()?;
//!     Some(tenant.to_owned())
//! });
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! Tokens for each tenant, which are refused while Redis does not answer:
//!
//! ```
//! use std::num::NonZeroU64;
//!
//! use http::request::Parts;
//! use jiff::tz::TimeZone;
//! use llamatower_layers::redis::{Redis, RedisAddress, RedisConfig, RedisTokens};
//! use llamatower_layers::store::WhenUnavailable;
//! use llamatower_layers::token_limit::{Budget, MemoryStore, TokenLimitLayer, Window};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let address: RedisAddress = "redis+sentinel://a:26379,b:26379/main".parse()?;
//! let redis = Redis::start(RedisConfig::new(address));
//! let memory = MemoryStore::new(TimeZone::UTC);
//! let name_of = |tenant: &String| tenant.clone();
//! let store = RedisTokens::new(redis, "tenants", TimeZone::UTC, memory, name_of);
//! let budget = Budget::new(NonZeroU64::new(100_000).expect("not zero"), Window::Day);
//! let layer = TokenLimitLayer::with_store(store, [budget], |request: &Parts| {
//!     let tenant = request.headers.get("x-tenant")?.to_str().ok()?;
//!     Some(tenant.to_owned())
//! })
//! .when_unavailable(WhenUnavailable::Refuse);
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```

mod address;
mod admit;
mod ask;
mod cluster;
#[cfg(test)]
mod cluster_tests;
mod keep;
mod limits;
#[cfg(test)]
mod limits_tests;
mod link;
mod per_client;
mod rates;
#[cfg(test)]
mod replica_tests;
mod settle;
#[cfg(test)]
mod speed_tests;
mod status;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
mod tokens;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, from_redis_value};

pub use address::{InvalidRedisAddress, RedisAddress};
pub(crate) use admit::Admitted;
pub use limits::{RedisLimitsFuture, RedisLimitsLayer, RedisLimitsService};
pub use link::{Redis, RedisConfig};
pub use rates::RedisBuckets;
pub use status::{RedisCall, RedisCallResult, RedisObserver, RedisStatus};
pub use tokens::{RedisReservation, RedisTokens};

/// A script in Lua, which Redis runs as one step. It is sent once, and called by its hash.
#[derive(Debug)]
pub struct RedisScript(::redis::Script);

impl RedisScript {
    /// The text of the script.
    pub fn new(text: &'static str) -> Self {
        Self(::redis::Script::new(text))
    }

    fn hash(&self) -> &str {
        self.0.get_hash()
    }

    /// Makes a call of the script by its hash, and sends the script before if Redis does not know it, as
    /// after a restart.
    async fn call<T: FromRedisValue>(
        &self,
        call: &Cmd,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let answer = query(call, connection).await;
        let no_script = ErrorKind::Server(ServerErrorKind::NoScript);
        match &answer {
            Err(error) if error.kind() == no_script => {
                self.0.load_async(connection).await?;
                call.query_async(connection).await
            }
            _ => answer,
        }
    }
}

/// As [`Cmd::query_async`], which allocates its future.
async fn query<T: FromRedisValue>(
    call: &Cmd,
    connection: &mut MultiplexedConnection,
) -> RedisResult<T> {
    let answer = connection.send_packed_command(call).await?;
    Ok(from_redis_value(answer.extract_error()?)?)
}
