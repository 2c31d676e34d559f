//! A Redis Cluster.

use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;

use super::redis::{Redis, free_port};
use super::within_limit;

/// Servers in processes of their own.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    pub(crate) servers: Vec<Redis>,
    _folder: TempDir,
}

impl RedisCluster {
    /// Starts three masters and a replica of each; `None` if the server is not installed, which the output
    /// says.
    pub(crate) async fn start() -> Option<Self> {
        let cluster = Self::start_servers(6).await?;
        let servers: Vec<String> = cluster.servers.iter().map(Redis::authority).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(servers.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = cluster.servers[0].call(&create).await;
        assert!(output.contains("All 16384 slots covered"), "{output}");
        for server in &cluster.servers {
            until("the cluster", async || {
                let info = server.call(&["INFO", "replication"]).await;
                let is_linked =
                    info.contains("connected_slaves:1") || info.contains("master_link_status:up");
                is_linked
                    && server
                        .call(&["CLUSTER", "INFO"])
                        .await
                        .contains("cluster_state:ok")
            })
            .await;
        }
        Some(cluster)
    }

    /// Starts a cluster of one server.
    pub(crate) async fn start_one() -> Option<Self> {
        let cluster = Self::start_servers(1).await?;
        let server = &cluster.servers[0];
        let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
        let mut add = vec!["CLUSTER", "ADDSLOTS"];
        add.extend(slots.iter().map(String::as_str));
        server.call(&add).await;
        until("the cluster", async || {
            server
                .call(&["CLUSTER", "INFO"])
                .await
                .contains("cluster_state:ok")
        })
        .await;
        Some(cluster)
    }

    async fn start_servers(number: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut servers = Vec::new();
        for number in 0..number {
            let file = folder.path().join(format!("{number}.conf"));
            let file = file.to_str().unwrap();
            let arguments = [
                &["--cluster-enabled", "yes", "--cluster-config-file", file][..],
                // Other tests use the processors too.
                &["--cluster-node-timeout", "2000"],
                &["--repl-diskless-sync-delay", "0"],
            ];
            let port = free_cluster_port().await;
            servers.push(Redis::start_on(port, &arguments.concat()).await?);
        }
        Some(Self {
            servers,
            _folder: folder,
        })
    }

    /// The address that names the first servers.
    pub(crate) fn url(&self, servers: usize) -> String {
        let servers = self.servers[..servers].iter().map(Redis::authority);
        format!("redis+cluster://{}", servers.collect::<Vec<_>>().join(","))
    }

    /// The number of the server that has the keys with this hash tag.
    pub(crate) async fn place_of(&self, tag: &str) -> usize {
        for (number, server) in self.servers.iter().enumerate() {
            if server.call(&["TYPE", tag]).await.trim() == "none" {
                return number;
            }
        }
        panic!("no server has the keys of {tag}")
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    within_limit(what, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// A port whose sum with 10,000 is free too: servers of a cluster talk to each other there.
async fn free_cluster_port() -> u16 {
    loop {
        let port = free_port();
        if let Some(other) = port.checked_add(10_000)
            && TcpListener::bind(("127.0.0.1", other)).await.is_ok()
        {
            return port;
        }
    }
}
