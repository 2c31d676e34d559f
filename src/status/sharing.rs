//! What several gateways share.

use llamatower_layers::redis::{RedisAddress, RedisStatus};
use serde::{Deserialize, Serialize};

/// What this gateway shares with others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct SharingState {
    /// The number of gateways by which limits are divided where they are not shared: while Redis does not
    /// answer, or without it; 1 if neither `LLAMATOWER_REDIS_URL` nor `LLAMATOWER_PEERS` is set.
    pub gateways: u32,
    /// Redis; null if it is not used.
    pub redis: Option<RedisState>,
}

/// The Redis through which gateways share limits, usage and cordons.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct RedisState {
    /// Its address, without a password.
    pub address: String,
    /// Whether it is used. If not, requests do not wait for it.
    pub is_connected: bool,
    /// Since when.
    pub since: String,
    /// Why it is not used, or the error with which it refused the last call; null if all is well.
    pub problem: Option<String>,
}

impl SharingState {
    /// The document.
    pub fn new(gateways: u32, redis: Option<(RedisAddress, RedisStatus)>) -> Self {
        Self {
            gateways,
            redis: redis.map(|(address, status)| RedisState {
                address: address.to_string(),
                is_connected: status.is_connected,
                since: status.since.to_string(),
                problem: status.problem,
            }),
        }
    }
}
