//! A server of Redis for a test.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Redis, RedisAddress, RedisConfig};

/// A server in a process of its own, which is killed when this is dropped.
pub(super) struct Server {
    pub(super) port: u16,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// Starts a server; `None` if it is not installed, which the output says.
    pub(super) fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_on(free_port(), arguments)
    }

    pub(super) fn start_on(port: u16, arguments: &[&str]) -> Option<Self> {
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        let mut server = Self {
            port,
            arguments,
            process: None,
        };
        server.restart().then_some(server)
    }

    /// Starts it again on its port, without data.
    pub(super) fn restart(&mut self) -> bool {
        let mut command = Command::new(program());
        let port = self.port.to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
        // A replica would write what it has received to a file first, which the next server would read.
        command.args(["--repl-diskless-load", "swapdb"]);
        command.args(&self.arguments).stdout(Stdio::null());
        match command.spawn() {
            Ok(process) => self.process = Some(process),
            Err(error) => eprintln!("skipped: the server of Redis cannot be started ({error})"),
        }
        self.process.is_some()
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(super) fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    pub(super) fn config(&self) -> RedisConfig {
        let address: RedisAddress = format!("redis://127.0.0.1:{}", self.port).parse().unwrap();
        // Other tests use the processors too.
        RedisConfig::new(address).with_deadline(Duration::from_secs(1))
    }

    pub(super) async fn connect(&self) -> Redis {
        let redis = Redis::start(self.config());
        let connected = tokio::time::timeout(Duration::from_secs(20), redis.connected());
        connected.await.unwrap();
        redis
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program of the server: that of `REDIS_BIN`, which can be Valkey's, or `redis-server`.
pub(super) fn program() -> OsString {
    std::env::var_os("REDIS_BIN").unwrap_or_else(|| "redis-server".into())
}

pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
