//! Tools for all tests: the gateway process, raw connections, simulated servers.

mod cloud;
mod connection;
mod dns;
mod keys;
mod process;
mod redis;
mod redis_cluster;

use std::future::Future;
use std::time::Duration;

use llamatower_sim::{ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

pub(crate) use cloud::{Cloud, Reply};
pub(crate) use connection::{Connection, End};
pub(crate) use dns::{Dns, Zone};
pub(crate) use keys::{ADA, ADA_AND_BOB, ADMIN_BEN, WEBUI_AND_BOB, keys};
pub(crate) use process::{Exited, Gateway, run};
pub(crate) use redis::{Redis, free_port, slow_way_to};
pub(crate) use redis_cluster::RedisCluster;

/// The time limit for every wait; a passing run never reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for an event that must happen.
pub(crate) async fn within_limit<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("it never happened: {what}"),
    }
}

/// The time between two questions of [`eventually`].
const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer, where no event tells of it.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    within_limit(what, async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    })
    .await
}

/// Waits until something is so, where no event tells of it.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    eventually(what, async || is_so().await.then_some(())).await;
}

/// A server with the model `tiny`, which responds without delay.
pub(crate) async fn tiny() -> SimHandle {
    sim_with(ModelSpec::new("tiny").with_slots(8)).await
}

/// A server whose `tiny` sends a thousand tokens, one every 20 ms: a stream long enough to be
/// interrupted.
pub(crate) async fn long_stream() -> SimHandle {
    let model = ModelSpec::new("tiny")
        .with_slots(8)
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(1000);
    sim_with(model).await
}

pub(crate) async fn sim_with(model: ModelSpec) -> SimHandle {
    Sim::builder().model(model).start().await.unwrap()
}

/// Loads `tiny` into the memory of a server, which is preferred to one that must load it first.
pub(crate) async fn load(sim: &SimHandle) {
    let url = format!("{}/api/generate", sim.url());
    let request = reqwest::Client::new().post(url);
    let body = json!({"model": "tiny"}).to_string();
    let answer = request.body(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// A chat request for `tiny`.
pub(crate) fn chat() -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]})
}

/// `base` with the fields of `more`.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(more);
    base
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request and reads the whole response.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    within_limit("an answer", async {
        let answer = request.send().await.unwrap();
        Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            text: answer.text().await.unwrap(),
        }
    })
    .await
}
