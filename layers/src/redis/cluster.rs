//! Finds the server of a cluster that has the keys.
//!
//! ```text
//! each server that is known ── script with the key ──▶ it has the key: this is the connection
//!                                     └─ MOVED to another one: the same there
//! ```
//!
//! All keys have one hash tag, so one server has them all, and the connection to it is used like that to a
//! single server. The cluster connection of the crate `redis` would keep connections to all servers, and
//! send a call again after a connection broke: a script that had run before would then count twice.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::keep::describe_error;

/// The time in which a server must lead to the one that has the keys.
const FIND: Duration = Duration::from_secs(4);
/// So many servers may send on to another one.
const HOPS: u32 = 5;

/// A cluster, as its address names it.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) login: RedisConnectionInfo,
    pub(super) is_tls: bool,
}

/// A server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why a server did not lead to a connection.
struct Problem {
    text: String,
    /// Whether a server has said so. Otherwise it could not be reached.
    is_answer: bool,
}

impl Node {
    pub(super) fn address(self, is_tls: bool) -> ConnectionAddr {
        let Self { host, port } = self;
        match is_tls {
            true => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(host, port),
        }
    }

    /// The server that this one names, which names itself without a host if it does not know its own.
    fn named(&self, host: &str, port: u16) -> Self {
        let host = match host.is_empty() {
            true => self.host.clone(),
            false => host.to_owned(),
        };
        Self { host, port }
    }

    /// Where the error of this server sends on to.
    fn moved_to(&self, error: &RedisError) -> Option<Self> {
        if error.kind() != ErrorKind::Server(ServerErrorKind::Moved) {
            return None;
        }
        let (address, _slot) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        Some(self.named(host, port.parse().ok()?))
    }

    /// The servers in the answer of this one to `CLUSTER SLOTS`. What is not understood is left out.
    fn in_slots(&self, slots: &[Value]) -> Vec<Self> {
        let mut nodes = Vec::new();
        for range in slots {
            let Value::Array(range) = range else {
                continue;
            };
            // The first two are the range.
            for node in range.iter().skip(2) {
                let Value::Array(node) = node else { continue };
                let [host, Value::Int(port), ..] = &**node else {
                    continue;
                };
                let host = match host {
                    Value::BulkString(host) => std::str::from_utf8(host).ok(),
                    Value::Nil => Some(""),
                    _ => None,
                };
                let port = u16::try_from(*port).ok();
                if let (Some(host), Some(port)) = (host, port) {
                    let node = self.named(host, port);
                    if !nodes.contains(&node) {
                        nodes.push(node);
                    }
                }
            }
        }
        nodes
    }
}

/// A script that does nothing, with these keys. A server refuses it if it could not run the others.
pub(super) fn trial(keys: &[&str]) -> Cmd {
    let mut call = ::redis::cmd("EVAL");
    call.arg("return 0").arg(keys.len()).arg(keys);
    call
}

/// The result of a [`trial`] of one key on the server of a cluster.
pub(super) fn tried(answer: RedisResult<()>) -> RedisResult<()> {
    match answer {
        // The slot is about to be moved, but is still here.
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) => Ok(()),
        answer => answer,
    }
}

impl Cluster {
    /// Connects to the server that has `key`. Servers are learned in `known`, and asked when none of those
    /// in the address leads to it.
    pub(super) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
        key: &str,
        known: &mut Vec<Node>,
    ) -> Result<MultiplexedConnection, String> {
        let is_other = |node: &&Node| !self.nodes.contains(node);
        let others: Vec<Node> = known.iter().filter(is_other).cloned().collect();
        let mut problem: Option<Problem> = None;
        for nodes in [self.nodes.clone(), others] {
            match self.first(nodes, config, key).await {
                Ok((connection, nodes)) => {
                    *known = nodes;
                    return Ok(connection);
                }
                Err(found) => problem = Problem::better(problem, found),
            }
        }
        Err(problem.map_or_else(|| "no server is known".to_owned(), |problem| problem.text))
    }

    /// The first connection to which one of these servers leads.
    async fn first(
        &self,
        nodes: Vec<Node>,
        config: &AsyncConnectionConfig,
        key: &str,
    ) -> Result<(MultiplexedConnection, Vec<Node>), Option<Problem>> {
        let mut finding = JoinSet::new();
        for node in nodes {
            let (cluster, config, key) = (self.clone(), config.clone(), key.to_owned());
            finding.spawn(async move {
                let found = timeout(FIND, cluster.find(node.clone(), &config, &key)).await;
                found.unwrap_or_else(|_| Err(Problem::at(&node, "no response".to_owned(), false)))
            });
        }
        let mut problem = None;
        while let Some(found) = finding.join_next().await {
            match found {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(other)) => problem = Problem::better(problem, Some(other)),
                // Only if the runtime ends.
                Err(_) => {}
            }
        }
        Err(problem)
    }

    /// The connection to which this server leads, and the servers of the cluster.
    async fn find(
        &self,
        mut node: Node,
        config: &AsyncConnectionConfig,
        key: &str,
    ) -> Result<(MultiplexedConnection, Vec<Node>), Problem> {
        for _ in 0..HOPS {
            let mut connection = self.open(&node, config).await?;
            let answer = trial(&[key]).exec_async(&mut connection).await;
            match tried(answer) {
                Ok(()) => {
                    let nodes = members(&node, &mut connection).await?;
                    return Ok((connection, nodes));
                }
                Err(error) => match node.moved_to(&error) {
                    Some(next) => node = next,
                    None => return Err(Problem::of(&node, &error)),
                },
            }
        }
        let text = "the servers of the cluster do not agree which of them has the keys";
        Err(Problem::at(&node, text.to_owned(), true))
    }

    async fn open(
        &self,
        node: &Node,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Problem> {
        let problem = |error: RedisError| Problem::of(node, &error);
        let address = node.clone().address(self.is_tls);
        let info = address.into_connection_info().map_err(problem)?;
        let client = Client::open(info.set_redis_settings(self.login.clone())).map_err(problem)?;
        let connecting = client.get_multiplexed_async_connection_with_config(config);
        connecting.await.map_err(problem)
    }
}

/// The servers of the cluster of this one; an error if it is in none.
async fn members(
    node: &Node,
    connection: &mut MultiplexedConnection,
) -> Result<Vec<Node>, Problem> {
    let slots = ::redis::cmd("CLUSTER").arg("SLOTS").take();
    match slots.query_async::<Vec<Value>>(connection).await {
        Ok(slots) => Ok(node.in_slots(&slots)),
        Err(error) if describe_error(&error).contains("cluster support disabled") => {
            let text = "the server is in no Redis Cluster; begin its address with redis:// (with TLS \
                        rediss://)";
            Err(Problem::at(node, text.to_owned(), true))
        }
        // The user may have no right to ask.
        Err(_) => Ok(Vec::new()),
    }
}

impl Problem {
    fn at(node: &Node, text: String, is_answer: bool) -> Self {
        let Node { host, port } = node;
        let text = format!("{host}:{port}: {text}");
        Self { text, is_answer }
    }

    fn of(node: &Node, error: &RedisError) -> Self {
        Self::at(node, describe_error(error), !error.is_io_error())
    }

    /// What a server has said tells more than that another one is not there.
    fn better(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let is_answer = |problem: &Self| problem.is_answer;
        match one.as_ref().is_some_and(is_answer) || other.is_none() {
            true => one,
            false => other,
        }
    }
}

/// The prefix of keys that are all on one server: with a hash tag, unless it has one.
pub(super) fn with_hash_tag(prefix: &str) -> String {
    if has_hash_tag(prefix) {
        return prefix.to_owned();
    }
    let stem = prefix.trim_end_matches(':');
    match stem.is_empty() || stem.starts_with('}') {
        true => format!("{{llamatower}}:{prefix}"),
        false => format!("{{{stem}}}{}", &prefix[stem.len()..]),
    }
}

/// Redis hashes what is between the first opening brace and the next closing one, if there is anything.
fn has_hash_tag(prefix: &str) -> bool {
    let tag = prefix
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        let host = host.to_owned();
        Node { host, port }
    }

    #[test]
    fn a_prefix_gets_one_hash_tag() {
        for (prefix, expected) in [
            ("llamatower:", "{llamatower}:"),
            ("mine", "{mine}"),
            ("a:b::", "{a:b}::"),
            ("", "{llamatower}:"),
            (":", "{llamatower}::"),
            ("}x:", "{llamatower}:}x:"),
            ("{mine}:", "{mine}:"),
            ("x{mine}:", "x{mine}:"),
            // An empty pair of braces is no tag.
            ("{}x:", "{{}x}:"),
            ("{x:", "{{x}:"),
        ] {
            let found = with_hash_tag(prefix);
            assert_eq!(found, expected);
            assert!(has_hash_tag(&found), "{found}");
        }
    }

    #[test]
    fn the_servers_of_a_cluster_are_read_from_its_slots() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let member =
            |host: Value, port: i64| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |members: Vec<Value>| {
            let mut range = vec![Value::Int(0), Value::Int(5)];
            range.extend(members);
            Value::Array(range)
        };
        let slots = [
            range(vec![member(text("10.0.0.1"), 7000), member(text(""), 7001)]),
            range(vec![
                member(Value::Nil, 7002),
                member(text("10.0.0.1"), 7000),
            ]),
            range(vec![member(text("::1"), 99_999), Value::Nil]),
            Value::Nil,
        ];
        let found = node("asked", 7000).in_slots(&slots);
        let expected = [
            node("10.0.0.1", 7000),
            node("asked", 7001),
            node("asked", 7002),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_server_sends_on_to_the_one_with_the_keys() {
        let moved_to = |detail: &str| {
            let error = (
                ErrorKind::Server(ServerErrorKind::Moved),
                "moved",
                detail.to_owned(),
            );
            node("asked", 7000).moved_to(&RedisError::from(error))
        };
        assert_eq!(moved_to("866 10.0.0.1:7001"), Some(node("10.0.0.1", 7001)));
        assert_eq!(moved_to("866 ::1:7001"), Some(node("::1", 7001)));
        assert_eq!(moved_to("866 :7001"), Some(node("asked", 7001)));
        assert_eq!(moved_to("866"), None);
    }

    #[test]
    fn what_a_server_has_said_is_told_first() {
        let problem =
            |text: &str, is_answer| Some(Problem::at(&node("a", 1), text.to_owned(), is_answer));
        let told = |one, other| Problem::better(one, other).map(|problem| problem.text);
        let (down, gone) = (problem("CLUSTERDOWN", true), problem("refused", false));
        assert_eq!(told(gone, down).unwrap_or_default(), "a:1: CLUSTERDOWN");
        let (down, gone) = (problem("CLUSTERDOWN", true), problem("refused", false));
        assert_eq!(told(down, gone).unwrap_or_default(), "a:1: CLUSTERDOWN");
        assert_eq!(
            told(problem("refused", false), None).unwrap_or_default(),
            "a:1: refused"
        );
        assert_eq!(told(None, None), None);
    }
}
