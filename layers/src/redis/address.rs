//! Where Redis is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    RedisResult, TlsMode,
};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::cluster::{self, Cluster, Node};
use super::keep::{describe, is_of_a_cluster, is_of_a_replica};

/// The time to connect and to sign in. It is spent in the background.
const CONNECT: Duration = Duration::from_secs(2);

/// The port of a sentinel, if the address has none.
const SENTINEL_PORT: u16 = 26_379;
/// The port of a server of a cluster, if the address has none.
const CLUSTER_PORT: u16 = 6379;

/// The address of one Redis server, of the sentinels that know it, or of servers of a cluster. It can
/// contain a password, which neither `Debug` nor `Display` shows.
///
/// Of a cluster, some of the servers are enough: the others are learned from them. All servers have the same
/// user and password. All keys are on one server of the cluster; see [`Redis::key`](super::Redis::key).
///
/// ```
/// use llamatower_layers::redis::RedisAddress;
///
/// let address: RedisAddress = "redis://:secret@cache.example:6379/2".parse()?;
/// assert_eq!(address.to_string(), "redis://cache.example:6379/2");
/// let address: RedisAddress = "redis+sentinel://a:26379,b:26379/main".parse()?;
/// assert_eq!(address.to_string(), "redis+sentinel://a:26379,b:26379/main");
/// let address: RedisAddress = "redis+cluster://:secret@a:6379,b:6379".parse()?;
/// assert_eq!(address.to_string(), "redis+cluster://a:6379,b:6379");
/// assert!("http://cache.example".parse::<RedisAddress>().is_err());
/// # Ok::<_, llamatower_layers::redis::InvalidRedisAddress>(())
/// ```
#[derive(Clone)]
pub struct RedisAddress {
    target: Target,
    shown: String,
}

#[derive(Clone)]
enum Target {
    Server(Client),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

#[derive(Clone)]
struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    name: String,
    user: Option<String>,
    password: Option<String>,
    db: i64,
    is_tls: bool,
}

/// The text is no address of Redis. The error does not contain the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidRedisAddress {
    reason: String,
}

impl InvalidRedisAddress {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// The parts of an address, as they are written.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        // A password can contain a slash or an @ only in percent-encoding.
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let is_fine = !hosts.is_empty() && !path.contains(['@', '#', '?']);
        is_fine.then_some(Self {
            scheme,
            user,
            hosts,
            path,
        })
    }

    fn shown(&self) -> String {
        let slash = if self.path.is_empty() { "" } else { "/" };
        format!("{}://{}{slash}{}", self.scheme, self.hosts, self.path)
    }
}

impl FromStr for RedisAddress {
    type Err = InvalidRedisAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = Parts::of(text.trim()).ok_or_else(|| {
            InvalidRedisAddress::new(
                "it is not like redis://USER:PASSWORD@HOST:6379/0, with a percent-encoded password",
            )
        })?;
        let target = match parts.scheme {
            "redis" | "rediss" => Target::Server(server(&parts, text.trim())?),
            "redis+sentinel" => Target::Sentinels(sentinels(&parts, false)?),
            "rediss+sentinel" => Target::Sentinels(sentinels(&parts, true)?),
            "redis+cluster" => Target::Cluster(cluster(&parts, false)?),
            "rediss+cluster" => Target::Cluster(cluster(&parts, true)?),
            _ => {
                return Err(InvalidRedisAddress::new(
                    "it must begin with redis://, redis+sentinel:// or redis+cluster://, or for TLS with \
                     rediss://, rediss+sentinel:// or rediss+cluster://",
                ));
            }
        };
        if parts.scheme.starts_with("rediss") && cfg!(not(feature = "redis-tls")) {
            let reason = "TLS needs the feature redis-tls of llamatower-layers";
            return Err(InvalidRedisAddress::new(reason));
        }
        let shown = parts.shown();
        Ok(Self { target, shown })
    }
}

fn server(parts: &Parts<'_>, text: &str) -> Result<Client, InvalidRedisAddress> {
    if parts.hosts.contains(',') {
        let reason = "it names several servers: begin it with redis+cluster:// for a Redis Cluster, or with \
                      redis+sentinel:// for sentinels, as in redis+sentinel://a:26379,b:26379/NAME";
        return Err(InvalidRedisAddress::new(reason));
    }
    let info = text.into_connection_info();
    let client = info.and_then(Client::open);
    // The crate's text of the error can contain parts of the address.
    client
        .map_err(|error| InvalidRedisAddress::new(format!("it is malformed: {}", error.category())))
}

fn sentinels(parts: &Parts<'_>, is_tls: bool) -> Result<Sentinels, InvalidRedisAddress> {
    let (name, db) = parts.path.split_once('/').unwrap_or((parts.path, "0"));
    let db = db.parse();
    let db =
        db.map_err(|_| InvalidRedisAddress::new("the database after the name is no number"))?;
    if name.is_empty() {
        return Err(InvalidRedisAddress::new(
            "it must end with the name that the sentinels have for the servers, as in \
             redis+sentinel://a:26379,b:26379/NAME",
        ));
    }
    let (user, password) = login(parts)?;
    let nodes = nodes(parts, SENTINEL_PORT)?;
    let addresses = nodes.into_iter().map(|node| node.address(is_tls));
    Ok(Sentinels {
        addresses: addresses.collect(),
        name: name.to_owned(),
        user,
        password,
        db,
        is_tls,
    })
}

fn cluster(parts: &Parts<'_>, is_tls: bool) -> Result<Cluster, InvalidRedisAddress> {
    if !matches!(parts.path, "" | "0") {
        let reason = "a cluster has no databases: the address must end after the servers, as in \
                      redis+cluster://a:6379,b:6379";
        return Err(InvalidRedisAddress::new(reason));
    }
    let (user, password) = login(parts)?;
    let mut login = RedisConnectionInfo::default();
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password);
    }
    let nodes = nodes(parts, CLUSTER_PORT)?;
    Ok(Cluster {
        nodes,
        login,
        is_tls,
    })
}

/// User and password.
fn login(parts: &Parts<'_>) -> Result<(Option<String>, Option<String>), InvalidRedisAddress> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        let decoded = decoded.map_err(|_| InvalidRedisAddress::new("the password is not UTF-8"));
        decoded.map(|text| (!text.is_empty()).then(|| text.into_owned()))
    };
    let (user, password) = parts.user.unwrap_or("").split_once(':').unwrap_or_default();
    Ok((decoded(user)?, decoded(password)?))
}

/// The servers, with this port if none is given.
fn nodes(parts: &Parts<'_>, port: u16) -> Result<Vec<Node>, InvalidRedisAddress> {
    let node = |text: &str| {
        // What follows the last colon of an IPv6 address in brackets is no port.
        let parts = text
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'));
        let (host, port) = match parts {
            Some((host, port)) => (host, port.parse().map_err(|_| "a port is no number")?),
            None => (text, port),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        match host.is_empty() {
            true => Err("a server has no name"),
            false => Ok(Node { host, port }),
        }
    };
    let nodes: Result<_, _> = parts.hosts.split(',').map(node).collect();
    nodes.map_err(InvalidRedisAddress::new)
}

impl RedisAddress {
    /// Whether it is that of a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(_))
    }

    /// What keys begin with. In a cluster it puts all of them into one hash slot.
    pub(super) fn prefix(&self, prefix: String) -> String {
        match self.is_cluster() {
            true => cluster::with_hash_tag(&prefix),
            false => prefix,
        }
    }

    /// Connects and signs in: in a cluster to the server whose keys begin with `prefix`. The servers of the
    /// cluster are learned in `known`.
    pub(super) async fn connect(
        &self,
        prefix: &str,
        known: &mut Vec<Node>,
    ) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each call has its own deadline.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let connected = match &self.target {
            Target::Server(client) => {
                let connecting = client.get_multiplexed_async_connection_with_config(&config);
                connecting.await
            }
            Target::Sentinels(sentinels) => match sentinels.client() {
                Ok(mut client) => client.get_async_connection_with_config(&config).await,
                Err(error) => Err(error),
            },
            Target::Cluster(cluster) => return cluster.connect(&config, prefix, known).await,
        };
        let checked = match connected {
            Ok(connection) => check(connection, prefix).await,
            Err(error) => Err(error),
        };
        checked.map_err(|error| describe(&error, self))
    }
}

/// The connection, unless its server is a replica, or one of a cluster that does not have all keys. The task
/// that keeps the connection tests everything else.
async fn check(
    mut connection: MultiplexedConnection,
    prefix: &str,
) -> RedisResult<MultiplexedConnection> {
    // In a cluster these are in different slots.
    let keys = [format!("{prefix}1"), format!("{prefix}2")];
    let trial = cluster::trial(&keys.each_ref().map(String::as_str));
    // A write that changes nothing, because no set has this member. A script has this command too, so the user
    // may call it.
    let mut write = ::redis::cmd("ZREM");
    write.arg(&keys[0]).arg("no member");
    let calls = async {
        for call in [trial, write] {
            match call.exec_async(&mut connection).await {
                Err(error) if is_of_a_cluster(&error) || is_of_a_replica(&error) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    };
    match timeout(CONNECT, calls).await {
        Ok(Err(error)) => Err(error),
        _ => Ok(connection),
    }
}

impl Sentinels {
    fn client(&self) -> RedisResult<SentinelClient> {
        let addresses = self.addresses.iter().cloned();
        let mut builder =
            SentinelClientBuilder::new(addresses, &self.name, SentinelServerType::Master)?;
        builder = builder.set_client_to_redis_db(self.db);
        if self.is_tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(user) = &self.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_redis_password(password);
        }
        builder.build()
    }
}

impl PartialEq for RedisAddress {
    fn eq(&self, other: &Self) -> bool {
        self.shown == other.shown
    }
}

/// Without user and password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisAddress").field(&self.shown).finish()
    }
}
