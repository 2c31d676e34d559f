//! A cluster of Redis for a test.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use ::redis::{FromRedisValue, InfoDict};
use tokio::time::{sleep, timeout};

use super::test_server::{Server, free_port};
use super::{Redis, RedisAddress, RedisConfig};

/// The hash slots of a cluster.
const SLOTS: usize = 16_384;

/// Servers in processes of their own.
pub(super) struct Cluster {
    /// First the masters, in the order of their slots.
    pub(super) servers: Vec<Server>,
    masters: usize,
    folder: PathBuf,
    password: Option<&'static str>,
}

impl Cluster {
    /// Starts three masters, and a replica of each of these; `None` if the server is not installed, which
    /// the output says.
    pub(super) async fn start(replicas_of: &[usize]) -> Option<Self> {
        let cluster = Self::start_servers(3, replicas_of.len(), None)?;
        cluster.meet().await;
        cluster.assign(SLOTS).await;
        for (replica, master) in replicas_of.iter().enumerate() {
            let id: String = cluster.call(*master, &["CLUSTER", "MYID"]).await;
            let (replica, follow) = (3 + replica, ["CLUSTER", "REPLICATE", &id]);
            // It must have heard of its master.
            until("the master", async || {
                cluster.try_call::<()>(replica, &follow).await.is_ok()
            })
            .await;
            cluster.until_replica(replica).await;
        }
        cluster.until_ok().await;
        Some(cluster)
    }

    /// Starts servers that do not know each other, and have no slots.
    pub(super) fn start_servers(
        masters: usize,
        replicas: usize,
        password: Option<&'static str>,
    ) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("cluster-{}", free_port()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut cluster = Self {
            servers: Vec::new(),
            masters,
            folder,
            password,
        };
        for number in 0..masters + replicas {
            let file = cluster.folder.join(format!("{number}.conf"));
            let mut arguments = vec!["--cluster-enabled", "yes", "--cluster-config-file"];
            arguments.push(file.to_str().unwrap());
            arguments.extend(["--dir", cluster.folder.to_str().unwrap()]);
            // Other tests use the processors too.
            arguments.extend([
                "--cluster-node-timeout",
                "2000",
                "--repl-diskless-sync-delay",
                "0",
            ]);
            if let Some(password) = password {
                arguments.extend(["--requirepass", password, "--masterauth", password]);
            }
            let server = Server::start_on(free_cluster_port(), &arguments)?;
            cluster.servers.push(server);
        }
        Some(cluster)
    }

    /// Makes the servers known to each other.
    pub(super) async fn meet(&self) {
        let count = self.servers.len();
        for number in 0..count {
            until("a server", async || {
                self.try_call::<()>(number, &["PING"]).await.is_ok()
            })
            .await;
            let epoch = (number + 1).to_string();
            let _: () = self
                .call(number, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch])
                .await;
        }
        for server in &self.servers[1..] {
            let port = server.port.to_string();
            let _: () = self.call(0, &["CLUSTER", "MEET", "127.0.0.1", &port]).await;
        }
        for number in 0..count {
            let knows_all = async || {
                let known = self.info(number, &["CLUSTER", "INFO"], "cluster_known_nodes");
                known.await == Some(count.to_string())
            };
            until("the other servers", knows_all).await;
        }
    }

    /// Gives the first slots to the masters, in equal parts.
    pub(super) async fn assign(&self, slots: usize) {
        for master in 0..self.masters {
            let first = master * SLOTS / self.masters;
            let end = (master + 1) * SLOTS / self.masters;
            let slots: Vec<String> = (first..end.min(slots))
                .map(|slot| slot.to_string())
                .collect();
            if !slots.is_empty() {
                let mut add = vec!["CLUSTER", "ADDSLOTS"];
                add.extend(slots.iter().map(String::as_str));
                let _: () = self.call(master, &add).await;
            }
        }
    }

    pub(super) async fn until_ok(&self) {
        for number in 0..self.servers.len() {
            let is_ok = async || {
                let state = self
                    .info(number, &["CLUSTER", "INFO"], "cluster_state")
                    .await;
                state.as_deref() == Some("ok")
            };
            until("the cluster", is_ok).await;
        }
    }

    /// Waits until this server is a replica, and has what its master has.
    pub(super) async fn until_replica(&self, server: usize) {
        let is_copy = async || {
            let link = self.info(server, &["INFO", "replication"], "master_link_status");
            link.await.as_deref() == Some("up")
        };
        until("the copy", is_copy).await;
    }

    /// A field of what a server tells; `None` also if it does not answer.
    pub(super) async fn info(&self, server: usize, words: &[&str], field: &str) -> Option<String> {
        let info: ::redis::RedisResult<InfoDict> = self.try_call(server, words).await;
        info.ok()?.get(field)
    }

    /// The slot of a key, and the number of the master that has it at first.
    pub(super) async fn place_of(&self, key: &str) -> (usize, usize) {
        let slot: usize = self.call(0, &["CLUSTER", "KEYSLOT", key]).await;
        let place = (0..self.masters).find(|master| slot < (master + 1) * SLOTS / self.masters);
        (slot, place.unwrap())
    }

    /// Calls one of the servers.
    pub(super) async fn call<T: FromRedisValue>(&self, server: usize, words: &[&str]) -> T {
        self.try_call(server, words).await.unwrap()
    }

    async fn try_call<T: FromRedisValue>(
        &self,
        server: usize,
        words: &[&str],
    ) -> ::redis::RedisResult<T> {
        let (login, port) = (self.login(), self.servers[server].port);
        let client = ::redis::Client::open(format!("redis://{login}127.0.0.1:{port}"))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut call = ::redis::cmd(words[0]);
        call.arg(&words[1..]).query_async(&mut connection).await
    }

    fn login(&self) -> String {
        let password = self.password.map(|password| format!(":{password}@"));
        password.unwrap_or_default()
    }

    /// With an address that names these servers alone.
    pub(super) fn config(&self, servers: &[usize]) -> RedisConfig {
        let hosts = servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", self.servers[*server].port));
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let address = format!("redis+cluster://{}{hosts}", self.login());
        let address: RedisAddress = address.parse().unwrap();
        RedisConfig::new(address).with_deadline(Duration::from_secs(3))
    }

    pub(super) async fn connect(&self, servers: &[usize]) -> Redis {
        let redis = Redis::start(self.config(servers));
        within_limit("the connection", redis.connected()).await;
        redis
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.servers.clear();
        // It is in the folder for files that nobody needs.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until it is so.
pub(super) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    within_limit(what, async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(super) async fn within_limit<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    let waited = timeout(Duration::from_secs(40), waiting).await;
    waited.unwrap_or_else(|_| panic!("{what}: not within 40 s"))
}

/// A port whose sum with 10,000 is free too: servers of a cluster talk to each other there.
fn free_cluster_port() -> u16 {
    loop {
        let port = free_port();
        let other = port.checked_add(10_000);
        if other.is_some_and(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}
