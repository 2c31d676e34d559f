//! A server of Redis, and a slow way to it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};

use super::until;

/// A server in a process of its own, without persistence.
#[derive(Debug)]
pub(crate) struct Redis {
    process: Child,
    port: u16,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts a server; `None` if it is not installed, which the output says.
    pub(crate) async fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_on(free_port(), arguments).await
    }

    pub(crate) async fn start_on(port: u16, arguments: &[&str]) -> Option<Self> {
        let arguments: Vec<_> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let process = match spawn(port, &arguments) {
            Ok(process) => process,
            Err(error) => {
                eprintln!("skipped: the server of Redis cannot be started ({error})");
                return None;
            }
        };
        let server = Self {
            process,
            port,
            arguments,
        };
        server.until_up().await;
        Some(server)
    }

    /// Ends it at once.
    pub(crate) async fn stop(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Starts another one on its port, without data.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.port, &self.arguments).unwrap();
        self.until_up().await;
    }

    async fn until_up(&self) {
        until("the start of Redis", async || {
            let answer = self.call(&["PING"]).await;
            answer.contains("PONG") || answer.contains("NOAUTH")
        })
        .await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        self.address().to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The output of `redis-cli` with these arguments.
    pub(crate) async fn call(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli")
            .args(["-p", &port])
            .args(arguments)
            .output();
        String::from_utf8(output.await.unwrap().stdout).unwrap()
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.await.unwrap().success());
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(port: u16, arguments: &[String]) -> std::io::Result<Child> {
    let port = port.to_string();
    // `REDIS_BIN` can name Valkey's.
    let program = std::env::var_os("REDIS_BIN").unwrap_or_else(|| "redis-server".into());
    Command::new(program)
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
        // A replica would write what it has received to a file first, which the next server would read.
        .args(["--repl-diskless-load", "swapdb"])
        .args(arguments)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

/// A proxy that passes on everything after a delay.
pub(crate) async fn slow_way_to(server: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(pass_on(from_client, to_server, delay));
            tokio::spawn(pass_on(from_server, to_client, Duration::ZERO));
        }
    });
    address
}

async fn pass_on(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, delay: Duration) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        sleep_until(Instant::now() + delay).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
