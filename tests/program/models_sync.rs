//! The declared models that the gateway keeps installed by itself.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use llamatower_sim::{Ending, Fault, FaultKind, ModelSpec, Outcome, Sim, SimHandle, SimState};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Gateway, chat, send, within_limit};
use crate::manage::{asked, server, until_held_by};

const PULLED: &str = "a declared model was pulled";
const NOT_PULLED: &str = "a declared model could not be pulled";

/// A folder with the file `llamatower.toml`.
struct Config(TempDir);

impl Config {
    /// A file that declares these models for all servers, with this interval.
    fn new(every: Option<&str>, all: &[&str]) -> Self {
        let config = Self(tempfile::tempdir().unwrap());
        config.write(every, all);
        config
    }

    fn write(&self, every: Option<&str>, all: &[&str]) {
        let mut text = String::new();
        if let Some(every) = every {
            writeln!(text, "[backends]\nmodels_sync = {every:?}").unwrap();
        }
        writeln!(text, "[models]\nall = {all:?}").unwrap();
        let draft = self.0.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.path()).unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        Path::join(self.0.path(), "llamatower.toml")
    }

    async fn gateway(&self, sims: &[&SimHandle]) -> Gateway {
        let path = self.path();
        let settings = [("LLAMATOWER_CONFIG", path.to_str().unwrap())];
        Gateway::start(sims, &settings).await
    }
}

async fn sync_status(gateway: &Gateway) -> Value {
    gateway.admin_page("/status").await.json()["models_sync"].clone()
}

/// Waits until the row of the only server is like this.
async fn until_row(gateway: &Gateway, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    within_limit(what, async {
        loop {
            let row = sync_status(gateway).await["servers"][0].clone();
            if is_it(&row) {
                return row;
            }
        }
    })
    .await
}

/// Deletes a model behind the gateway's back.
async fn delete(sim: &SimHandle, model: &str) {
    let request = reqwest::Client::new().delete(format!("{}/api/delete", sim.url()));
    let body = json!({"model": model}).to_string();
    assert_eq!(send(request.body(body)).await.status, 200);
}

#[tokio::test]
async fn missing_models_are_pulled_on_each_server_and_again_after_they_were_deleted() {
    let (one, other) = (server().await, server().await);
    let config = Config::new(Some("1s"), &["new"]);
    let gateway = config.gateway(&[&one, &other]).await;
    until_held_by(&gateway, "new:latest", &[&one, &other]).await;
    let name = one.addr().to_string();
    let is_it = |line: &Value| line["message"] == PULLED && line["backend"] == *name;
    let line = gateway.logged(PULLED, is_it).await;
    assert_eq!(line["model"], "new:latest", "{line}");
    assert_eq!(
        (asked(&one, "/api/pull"), asked(&other, "/api/pull")),
        (1, 1)
    );

    delete(&one, "new").await;
    let is_pulled_again = |state: &SimState| {
        let pulls = state
            .requests
            .iter()
            .filter(|seen| seen.path() == "/api/pull");
        pulls.count() == 2
    };
    within_limit("another pull", one.wait_for(is_pulled_again)).await;
    until_held_by(&gateway, "new:latest", &[&one, &other]).await;
    // What is not declared stays.
    until_held_by(&gateway, "tiny:latest", &[&one, &other]).await;
    assert_eq!(asked(&other, "/api/pull"), 1);
    assert_eq!(
        gateway.metric("llamatower_model_sync_pulls_total").await,
        3.0
    );
}

#[tokio::test]
async fn a_failed_pull_is_reported_and_tried_again_and_stops_no_other() {
    let sim = server().await;
    // The first pull is that of `nowhere`.
    let dies = Fault::new(FaultKind::die_after(2, Ending::Reset));
    sim.arm(dies.for_path("/api/pull").after_requests(1).times(1));
    let config = Config::new(Some("1s"), &["nowhere", "new"]);
    let gateway = config.gateway(&[&sim]).await;
    let of = |model: &'static str| {
        move |line: &Value| line["message"] == NOT_PULLED && line["model"] == model
    };
    let line = gateway.logged("the failure of new", of("new:latest")).await;
    assert_eq!(line["level"], "WARN", "{line}");
    let line = gateway.logged("the failure", of("nowhere:latest")).await;
    assert!(
        line["reason"].as_str().unwrap().contains("no such host"),
        "{line}"
    );
    until_held_by(&gateway, "new:latest", &[&sim]).await;
    let row = until_row(&gateway, "another failure", |row| {
        row["failed"][0]["failures"].as_u64() >= Some(2)
    })
    .await;
    assert_eq!(row["failed"].as_array().unwrap().len(), 1, "{row}");
    assert_eq!(row["failed"][0]["model"], "nowhere:latest", "{row}");
    assert!(
        row["failed"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("no such host")
    );
    assert_eq!(row["pulled"][0]["model"], "new:latest", "{row}");
}

#[tokio::test]
async fn a_server_that_comes_back_without_its_models_gets_them_at_once() {
    let sim = server().await;
    let address: SocketAddr = sim.addr();
    let config = Config::new(Some("1h"), &["new"]);
    let gateway = config.gateway(&[&sim]).await;
    until_held_by(&gateway, "new:latest", &[&sim]).await;
    until_row(&gateway, "nothing is missing", |row| {
        row["state"] == "in_sync"
    })
    .await;
    sim.kill();
    let is_down = |line: &Value| line["message"] == "the backend is down";
    gateway.logged("the backend is down", is_down).await;
    until_row(&gateway, "the server is down", |row| {
        row["state"] == "waiting"
    })
    .await;
    let replaced = Sim::builder()
        .in_registry(ModelSpec::new("new"))
        .listen(address)
        .start();
    let replaced = replaced.await.unwrap();
    let is_pulled = |state: &SimState| {
        let mut seen = state.requests.iter();
        seen.any(|seen| seen.path() == "/api/pull")
    };
    within_limit("a pull", replaced.wait_for(is_pulled)).await;
    until_held_by(&gateway, "new:latest", &[&replaced]).await;
}

#[tokio::test]
async fn sigterm_cancels_a_pull_of_the_gateway_itself_while_streams_go_on() {
    let slow = ModelSpec::new("tiny")
        .with_slots(8)
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(1_000_000);
    let sim = Sim::builder()
        .model(slow)
        .in_registry(ModelSpec::new("new"));
    let sim = sim.start().await.unwrap();
    sim.arm(Fault::new(FaultKind::stall_after(2)).for_path("/api/pull"));
    let config = Config::new(Some("1h"), &["new"]);
    let mut gateway = config.gateway(&[&sim]).await;
    let row = until_row(&gateway, "a pull", |row| row["pulling"] == "new:latest").await;
    assert_eq!(row["state"], "pulling", "{row}");
    let mut stream = gateway.connect().await;
    stream.post("/api/chat", &chat()).await;
    assert_eq!(stream.head().await.status, 200);
    let has_begun = |state: &SimState| {
        let mut seen = state.requests.iter();
        seen.any(|seen| seen.path() == "/api/pull" && seen.lines() == 2)
    };
    within_limit("the lines of the pull", sim.wait_for(has_begun)).await;
    gateway.send_sigterm().await;
    let is_cancelled = |state: &SimState| {
        let mut seen = state.requests.iter();
        seen.any(|seen| seen.path() == "/api/pull" && seen.outcome() == Some(Outcome::Cancelled))
    };
    let state = within_limit("the end of the pull", sim.wait_for(is_cancelled)).await;
    assert_eq!(state.generating, 1, "the stream goes on");
    drop(stream);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn a_reload_switches_the_sync_on_and_changes_the_declared_models() {
    let sim = server().await;
    let config = Config::new(None, &["new"]);
    let gateway = config.gateway(&[&sim]).await;
    gateway.until_up(&[&sim]).await;
    assert_eq!(sync_status(&gateway).await, json!({"is_on": false}));
    config.write(Some("1h"), &["tiny"]);
    let line = gateway.hang_up("settings reloaded").await;
    assert_eq!(
        line["changed"], "LLAMATOWER_MODELS_SYNC, [models]",
        "{line}"
    );
    until_row(&gateway, "nothing is missing", |row| {
        row["state"] == "in_sync"
    })
    .await;
    assert_eq!(asked(&sim, "/api/pull"), 0);
    config.write(Some("1h"), &["tiny", "new"]);
    let line = gateway.hang_up("settings reloaded").await;
    assert_eq!(line["changed"], "[models]", "{line}");
    until_held_by(&gateway, "new:latest", &[&sim]).await;
    config.write(None, &["tiny", "new"]);
    gateway.hang_up("settings reloaded").await;
    within_limit("the end of the sync", async {
        while sync_status(&gateway).await["is_on"] != false {}
    })
    .await;
}

#[tokio::test]
async fn a_cordoned_server_gets_no_models_until_it_is_uncordoned() {
    let sim = server().await;
    let config = Config::new(None, &["new"]);
    let gateway = config.gateway(&[&sim]).await;
    gateway.until_up(&[&sim]).await;
    let order = |verb: &str| gateway.admin_post(&format!("/backends/{}/{verb}", sim.addr()));
    assert_eq!(send(order("cordon")).await.status, 200);
    config.write(Some("1h"), &["new"]);
    gateway.hang_up("settings reloaded").await;
    until_row(&gateway, "a row", |row| row["state"] == "waiting").await;
    assert_eq!(asked(&sim, "/api/pull"), 0);
    assert_eq!(send(order("uncordon")).await.status, 200);
    until_held_by(&gateway, "new:latest", &[&sim]).await;
}
