//! Where Redis is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisResult, TlsMode,
};
use percent_encoding::percent_decode_str;

/// The time to connect and to sign in. It is spent in the background.
const CONNECT: Duration = Duration::from_secs(2);

/// The port of a sentinel, if the address has none.
const SENTINEL_PORT: u16 = 26_379;

/// The address of one Redis server, or of the sentinels that know it. It can contain a password, which
/// neither `Debug` nor `Display` shows.
///
/// ```
/// use llamatower_layers::redis::RedisAddress;
///
/// let address: RedisAddress = "redis://:secret@cache.example:6379/2".parse()?;
/// assert_eq!(address.to_string(), "redis://cache.example:6379/2");
/// let address: RedisAddress = "redis+sentinel://a:26379,b:26379/main".parse()?;
/// assert_eq!(address.to_string(), "redis+sentinel://a:26379,b:26379/main");
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
            _ => {
                return Err(InvalidRedisAddress::new(
                    "it must begin with redis://, rediss://, redis+sentinel:// or rediss+sentinel://",
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
        let reason = "it names several servers: Redis Cluster is not supported; sentinels are, as in \
                      redis+sentinel://a:26379,b:26379/NAME";
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
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        let decoded = decoded.map_err(|_| InvalidRedisAddress::new("the password is not UTF-8"));
        decoded.map(|text| (!text.is_empty()).then(|| text.into_owned()))
    };
    let (user, password) = parts.user.unwrap_or("").split_once(':').unwrap_or_default();
    let address = |host: &str| {
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (host, SENTINEL_PORT),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Some(match is_tls {
            true => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(host, port),
        })
    };
    let addresses: Option<Vec<_>> = parts.hosts.split(',').map(address).collect();
    Ok(Sentinels {
        addresses: addresses.ok_or_else(|| InvalidRedisAddress::new("a port is no number"))?,
        name: name.to_owned(),
        user: decoded(user)?,
        password: decoded(password)?,
        db,
        is_tls,
    })
}

impl RedisAddress {
    /// Connects and signs in.
    pub(super) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each call has its own deadline.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        match &self.target {
            Target::Server(client) => {
                let connecting = client.get_multiplexed_async_connection_with_config(&config);
                connecting.await
            }
            Target::Sentinels(sentinels) => {
                let mut client = sentinels.client()?;
                client.get_async_connection_with_config(&config).await
            }
        }
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
