//! What several gateways share.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Gateway;
use crate::shared::{Member, Sharing};

/// A gateway that has registered itself within so many seconds counts as one that registers each second.
const REGISTERS: u64 = 3;

/// What this gateway shares with others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct SharingState {
    /// The number of gateways by which limits are divided where they are not shared: while Redis does not
    /// answer, or without it; 1 if neither `LLAMATOWER_REDIS_URL` nor `LLAMATOWER_PEERS` is set.
    pub gateways: u32,
    /// `LLAMATOWER_PEERS`: the name by whose addresses in DNS the gateways are counted; null if it is not set.
    pub peers: Option<String>,
    /// Redis; null if it is not used.
    pub redis: Option<RedisState>,
    /// The gateways that were registered in Redis when it answered last, by host and address; at most 50.
    pub registered: Vec<RegisteredGateway>,
    /// The number of registered gateways that are left out.
    pub not_listed: usize,
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
    /// What happens to requests with a limit of requests while there is a problem: `limited to this gateway's
    /// part`, `not limited` or `refused`.
    pub requests_meanwhile: String,
    /// The same for requests with a limit of tokens.
    pub tokens_meanwhile: String,
}

/// A gateway that has registered itself in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct RegisteredGateway {
    /// Its id, a new one at each start.
    pub id: String,
    /// Whether it is the gateway that tells this.
    pub is_this: bool,
    /// The name of its machine or pod; null, as all that follows but the last, if its version does not tell
    /// it.
    pub host: Option<String>,
    /// The address of its first listener for clients.
    pub address: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Requests in flight, also those that wait.
    pub in_flight: Option<u64>,
    /// Waiting requests.
    pub waiting: Option<u64>,
    /// Whether it is about to end.
    pub is_draining: Option<bool>,
    /// The whole seconds since it registered last; 0 while it registers each second.
    pub seen_ago: u64,
}

impl SharingState {
    /// The document. What is told of this gateway is current; `waiting` is the number of its waiting requests.
    pub fn new(sharing: &Sharing, gateway: &Gateway, waiting: usize, now: Instant) -> Self {
        let members = sharing.registered().get();
        let rows = members.shown.iter();
        let mut registered: Vec<_> = rows.map(|row| RegisteredGateway::new(row, now)).collect();
        for row in registered.iter_mut().filter(|row| row.is_this) {
            row.in_flight = u64::try_from(gateway.in_flight).ok();
            row.waiting = u64::try_from(waiting).ok();
            row.is_draining = Some(gateway.is_draining);
            row.seen_ago = 0;
        }
        registered.sort_by(|one, other| {
            let key = |row: &RegisteredGateway| (row.host.clone(), row.address.clone());
            key(one).cmp(&key(other)).then(one.id.cmp(&other.id))
        });
        let (requests, tokens) = sharing.without_redis();
        Self {
            gateways: sharing.gateways().number().get(),
            peers: sharing.peers().map(ToString::to_string),
            redis: sharing.status().map(|(address, status)| RedisState {
                address: address.to_string(),
                is_connected: status.is_connected,
                since: status.since.to_string(),
                problem: status.problem,
                requests_meanwhile: requests.consequence().to_owned(),
                tokens_meanwhile: tokens.consequence().to_owned(),
            }),
            registered,
            not_listed: members.not_shown,
        }
    }

    /// Whether anything is shared or divided.
    pub fn is_on(&self) -> bool {
        self.redis.is_some() || self.peers.is_some()
    }
}

impl RegisteredGateway {
    fn new(member: &Member, now: Instant) -> Self {
        let seen_ago = now.saturating_duration_since(member.seen_at).as_secs();
        let about = member.about.as_ref();
        Self {
            id: member.id.clone(),
            is_this: member.is_this,
            host: about.map(|about| about.host.clone()),
            address: about.map(|about| about.address.clone()),
            version: about.map(|about| about.version.clone()),
            in_flight: about.map(|about| about.in_flight),
            waiting: about.map(|about| about.waiting),
            is_draining: about.map(|about| about.is_draining),
            seen_ago: if seen_ago < REGISTERS { 0 } else { seen_ago },
        }
    }
}
