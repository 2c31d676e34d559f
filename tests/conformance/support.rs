//! A gateway process in front of simulated servers in this process.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::recording::{Answer, RecordedRequest};
use llamatower_sim::{ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A gateway and its servers. The key `admin` may manage models.
pub(crate) struct Stage {
    pub(crate) sims: Vec<SimHandle>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: String,
    _process: Child,
}

pub(crate) fn tiny() -> ModelSpec {
    ModelSpec::new("tiny").with_slots(8)
}

/// A slow model, for tests of events during an answer.
pub(crate) fn slow() -> ModelSpec {
    let pace = std::time::Duration::from_millis(5);
    ModelSpec::new("slow")
        .with_slots(8)
        .with_pace(pace)
        .with_reply_tokens(100_000)
}

/// Starts a gateway with one server for each list of models, and waits until it knows the models of
/// all servers.
pub(crate) async fn stage(servers: &[&[ModelSpec]]) -> Stage {
    stage_with(servers, &[]).await
}

pub(crate) async fn stage_with(servers: &[&[ModelSpec]], settings: &[(&str, &str)]) -> Stage {
    let mut sims = Vec::new();
    for models in servers {
        let builder = models
            .iter()
            .fold(Sim::builder(), |sim, model| sim.model(model.clone()));
        sims.push(builder.start().await.unwrap());
    }
    let urls: Vec<_> = sims.iter().map(SimHandle::url).collect();
    let (admin, line) = generate_key("admin").unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_llamatower"))
        .env_clear()
        .env("LLAMATOWER_LISTEN", "127.0.0.1:0")
        .env("LLAMATOWER_ADMIN_LISTEN", "off")
        .env("LLAMATOWER_ADMIN_KEYS", line)
        .env("LLAMATOWER_LOG_FORMAT", "json")
        .env("OLLAMA_URL", urls.join(","))
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut address = None;
    let mut unknown: BTreeSet<_> = sims.iter().map(|sim| sim.addr().to_string()).collect();
    while address.is_none() || !unknown.is_empty() {
        let line = lines.next_line().await.unwrap().expect("it serves");
        let line: Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "listening" && line["for"] == "clients" {
            address = line["address"].as_str().unwrap().parse().ok();
        }
        if line["message"] == "the backend is up" {
            unknown.remove(line["backend"].as_str().unwrap());
        }
    }
    let address = address.expect("it listens on an address");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Stage {
        sims,
        address,
        admin: admin.to_string(),
        _process: process,
    }
}

impl Stage {
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        let request = json!({"method": method, "path": path, "headers": headers, "body": body});
        let request: RecordedRequest = serde_json::from_value(request).unwrap();
        request.send(self.address, &[]).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        let json = [("Content-Type", "application/json")];
        self.ask("POST", path, &json, Some(&body.to_string())).await
    }

    pub(crate) async fn manage(&self, method: &str, path: &str, body: Value) -> Answer {
        let headers = [("x-api-key", self.admin.as_str())];
        self.ask(method, path, &headers, Some(&body.to_string()))
            .await
    }

    /// Sends a chat request for the slow model and leaves the connection open.
    pub(crate) async fn open_chat(&self, more: Value) -> TcpStream {
        let mut body = json!({"model": "slow", "messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.open("/api/chat", &body).await
    }

    /// Sends a request and leaves the connection open.
    pub(crate) async fn open(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        stream
    }
}

pub(crate) fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body()).unwrap()
}

pub(crate) fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body()).unwrap()
}

/// The chunks of a stream, one line each.
pub(crate) fn lines(answer: &Answer) -> Vec<Value> {
    let chunks = answer.chunks.iter();
    chunks
        .map(|chunk| serde_json::from_slice(chunk).unwrap())
        .collect()
}

pub(crate) fn chat(model: &str, more: Value) -> Value {
    let mut request = json!({"model": model, "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 4}});
    request
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    request
}
