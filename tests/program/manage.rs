//! Management of the models of several servers: by requests that name servers, and by
//! `llamatower models`.

use std::io::Write;

use llamatower_sim::{Ending, Fault, FaultKind, ModelSpec, Outcome, Sim, SimHandle};
use serde_json::{Value, json};

use crate::harness::{ADMIN_BEN, Exited, Gateway, run, send, within_limit};

pub(crate) const SERVERS: &str = "x-llamatower-servers";

/// The key of [`ADMIN_BEN`].
pub(crate) const KEY: &str = "ben-secret";

/// A server with `tiny`, which can pull `new`.
pub(crate) async fn server() -> SimHandle {
    let sim = Sim::builder()
        .model(ModelSpec::new("tiny").with_slots(8))
        .in_registry(ModelSpec::new("new"));
    sim.start().await.unwrap()
}

async fn three() -> [SimHandle; 3] {
    [server().await, server().await, server().await]
}

pub(crate) fn name(sim: &SimHandle) -> String {
    sim.addr().to_string()
}

/// A gateway in front of these servers that knows their models and allows management.
pub(crate) async fn gateway(sims: &[SimHandle], more: &[(&str, &str)]) -> Gateway {
    let mut settings = vec![ADMIN_BEN];
    settings.extend(more);
    let sims: Vec<_> = sims.iter().collect();
    Gateway::start_up(&sims, &settings).await
}

/// A pull of `new` to these servers.
pub(crate) fn pull(gateway: &Gateway, servers: &str) -> reqwest::RequestBuilder {
    let request = gateway.post_request("/api/pull", &json!({"model": "new"}));
    request.bearer_auth(KEY).header(SERVERS, servers)
}

pub(crate) fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The names of the servers that have a model, as the gateway knows them.
pub(crate) async fn holders(gateway: &Gateway, model: &str) -> Vec<String> {
    let page = gateway.admin_page("/status/models").await.json();
    let models = page["models"].as_array().unwrap().iter();
    let row = models.clone().find(|row| row["model"] == model);
    let servers = row.map(|row| row["servers"].as_array().unwrap().clone());
    let names = servers.unwrap_or_default();
    let names = names
        .iter()
        .map(|row| row["name"].as_str().unwrap().to_owned());
    names.collect()
}

/// Waits until the gateway knows that exactly these servers have a model.
pub(crate) async fn until_held_by(gateway: &Gateway, model: &str, sims: &[&SimHandle]) {
    let expected: Vec<_> = sims.iter().map(|sim| name(sim)).collect();
    within_limit("the catalogue is right", async {
        while holders(gateway, model).await != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// How often a server was asked for this path.
pub(crate) fn asked(sim: &SimHandle, path: &str) -> usize {
    let requests = sim.requests();
    requests.iter().filter(|seen| seen.path() == path).count()
}

/// `llamatower models` with these arguments.
pub(crate) async fn models(gateway: &Gateway, arguments: &[&str]) -> Exited {
    let (url, admin_url) = (gateway.url(""), gateway.admin_url());
    let mut all = vec!["models"];
    all.extend(arguments);
    all.extend(["--url", &url, "--admin-url", &admin_url]);
    run(&all, &[("LLAMATOWER_ADMIN_KEY", KEY)]).await
}

#[tokio::test]
async fn a_pull_to_all_servers_sends_one_stream_whose_lines_name_their_server() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    let answer = send(pull(&gateway, "all")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let lines = lines(&answer.text);
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(last, &json!({"status": "success"}));
    for sim in &sims {
        let of_server = progress.iter().filter(|line| line["server"] == name(sim));
        let texts: Vec<_> = of_server
            .map(|line| line["status"].as_str().unwrap())
            .collect();
        assert_eq!(texts.len(), 6, "{texts:?}");
        assert_eq!((texts[0], texts[5]), ("pulling manifest", "success"));
        assert_eq!(asked(sim, "/api/pull"), 1);
    }
    assert_eq!(progress.len(), 18);
    until_held_by(&gateway, "new:latest", &sims.each_ref()).await;
}

#[tokio::test]
async fn a_server_that_fails_half_way_is_named_and_stops_no_other() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    sims[1].arm(Fault::new(FaultKind::die_after(2, Ending::Reset)).for_path("/api/pull"));
    let answer = send(pull(&gateway, "all")).await;
    let lines = lines(&answer.text);
    let (last, progress) = lines.split_last().unwrap();
    let error = last["error"].as_str().unwrap();
    let begin = format!("1 of 3 servers failed: {}: ", name(&sims[1]));
    assert!(error.starts_with(&begin), "{error}");
    let with_error = progress.iter().filter(|line| line.get("error").is_some());
    assert_eq!(with_error.count(), 0, "clients stop at an error");
    let failed: Vec<_> = progress
        .iter()
        .filter(|line| line["status"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{}", answer.text);
    assert_eq!(failed[0]["server"], name(&sims[1]));
    until_held_by(&gateway, "new:latest", &[&sims[0], &sims[2]]).await;
    assert_eq!(asked(&sims[1], "/api/pull"), 1, "never sent twice");
}

#[tokio::test]
async fn a_pull_without_streaming_waits_for_all_servers_and_names_those_that_failed() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    let body = json!({"model": "new", "stream": false});
    let request = |servers: &str| {
        let request = gateway.post_request("/api/pull", &body);
        request.bearer_auth(KEY).header(SERVERS, servers)
    };
    let first = send(request(&format!("{}, {}", name(&sims[0]), name(&sims[2])))).await;
    assert_eq!(
        (first.status, &*first.text),
        (200, r#"{"status":"success"}"#)
    );
    assert_eq!(asked(&sims[1], "/api/pull"), 0);
    sims[1].arm(Fault::new(FaultKind::Busy).for_path("/api/pull"));
    let second = send(request("all")).await;
    assert_eq!(second.status, 502, "{}", second.text);
    let error = second.json()["error"].as_str().unwrap().to_owned();
    let begin = format!("1 of 3 servers failed: {}: server busy", name(&sims[1]));
    assert!(error.starts_with(&begin), "{error}");
    assert_eq!(asked(&sims[1], "/api/pull"), 1, "never sent twice");
}

#[tokio::test]
async fn a_pull_to_a_number_of_servers_prefers_those_that_have_the_model() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    assert_eq!(send(pull(&gateway, &name(&sims[2]))).await.status, 200);
    let answer = send(pull(&gateway, "1")).await;
    assert!(answer.text.ends_with("{\"status\":\"success\"}\n"));
    let pulls = sims.each_ref().map(|sim| asked(sim, "/api/pull"));
    assert_eq!(pulls, [0, 0, 2]);
    let too_many = send(pull(&gateway, "4")).await;
    assert_eq!(too_many.status, 400);
    assert!(too_many.text.contains("is only 3"), "{}", too_many.text);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_pull_on_all_servers() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    for sim in &sims {
        sim.arm(Fault::new(FaultKind::stall_after(2)).for_path("/api/pull"));
    }
    let mut answer = pull(&gateway, "all").send().await.unwrap();
    let mut seen = String::new();
    within_limit("two lines of each server", async {
        while seen.lines().count() < 6 {
            let chunk = answer.chunk().await.unwrap().unwrap();
            seen.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    })
    .await;
    drop(answer);
    for sim in &sims {
        let cancelled = |state: &llamatower_sim::SimState| {
            let mut pulls = state
                .requests
                .iter()
                .filter(|seen| seen.path() == "/api/pull");
            pulls.any(|seen| seen.outcome() == Some(Outcome::Cancelled))
        };
        within_limit("the end of the pull", sim.wait_for(cancelled)).await;
    }
    assert!(holders(&gateway, "new:latest").await.is_empty());
}

#[tokio::test]
async fn a_model_is_copied_and_deleted_on_all_servers_that_have_it() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    let on = format!("{},{}", name(&sims[0]), name(&sims[1]));
    assert_eq!(send(pull(&gateway, &on)).await.status, 200);
    let copy = gateway.post_request(
        "/api/copy",
        &json!({"source": "new", "destination": "same"}),
    );
    let copied = send(copy.bearer_auth(KEY).header(SERVERS, "all")).await;
    assert_eq!((copied.status, &*copied.text), (200, ""));
    until_held_by(&gateway, "same:latest", &[&sims[0], &sims[1]]).await;
    let delete = |servers: &str| {
        let request = gateway.delete("/api/delete", &json!({"model": "new"}));
        request.bearer_auth(KEY).header(SERVERS, servers)
    };
    let deleted = send(delete("all")).await;
    assert_eq!((deleted.status, &*deleted.text), (200, ""));
    until_held_by(&gateway, "new:latest", &[]).await;
    until_held_by(&gateway, "same:latest", &[&sims[0], &sims[1]]).await;
    assert_eq!(asked(&sims[2], "/api/delete"), 0);
    let again = send(delete("all")).await;
    assert_eq!(again.status, 404, "{}", again.text);
    let named = send(delete(&name(&sims[2]))).await;
    assert_eq!(named.status, 404, "{}", named.text);
    assert!(named.text.contains(&name(&sims[2])), "{}", named.text);
    let number = send(delete("2")).await;
    assert_eq!(number.status, 400, "{}", number.text);
}

#[tokio::test]
async fn targets_that_cannot_be_used_are_refused_by_name() {
    let [one, other, openai] = three().await;
    let urls = format!("{},{},openai+{}/v1", one.url(), other.url(), openai.url());
    let settings = [ADMIN_BEN, ("OLLAMA_URL", &*urls)];
    let gateway = Gateway::start(&[], &settings).await;
    gateway.until_up(&[&one, &other, &openai]).await;
    let openai_name = holders(&gateway, "tiny:latest").await.pop().unwrap();
    for (servers, reason) in [
        ("nowhere", "there is no server \"nowhere\""),
        ("", "x-llamatower-servers: it needs `all`"),
        ("0", "x-llamatower-servers: it needs `all`"),
        (&*openai_name, "is no Ollama"),
    ] {
        let refused = send(pull(&gateway, servers)).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        let error = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(reason), "{error}");
    }
    let create = gateway.post_request("/api/create", &json!({"model": "a", "from": "tiny"}));
    let refused = send(create.bearer_auth(KEY).header(SERVERS, "all")).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(send(pull(&gateway, "all")).await.text.contains("success"));
    assert_eq!(asked(&openai, "/api/pull"), 0);
    until_held_by(&gateway, "new:latest", &[&one, &other]).await;
    let without_key = gateway.post_request("/api/pull", &json!({"model": "new2"}));
    assert_eq!(send(without_key.header(SERVERS, "all")).await.status, 403);
}

#[tokio::test]
async fn without_named_servers_a_pull_goes_to_one_server_and_is_not_changed() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    let request = gateway.post_request("/api/pull", &json!({"model": "new"}));
    let answer = send(request.bearer_auth(KEY)).await;
    assert!(
        lines(&answer.text)
            .iter()
            .all(|line| line.get("server").is_none())
    );
    assert_eq!(
        sims.each_ref().map(|sim| asked(sim, "/api/pull")),
        [1, 0, 0]
    );
}

#[tokio::test]
async fn the_command_pulls_lists_and_deletes() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    let pulled = models(&gateway, &["pull", "new", "--servers", "2"]).await;
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    let success = format!("{}: success\n", name(&sims[0]));
    assert!(pulled.stdout.contains(&success), "{}", pulled.stdout);
    until_held_by(&gateway, "new:latest", &[&sims[0], &sims[1]]).await;
    let listed = models(&gateway, &["list"]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let row = listed
        .stdout
        .lines()
        .find(|line| line.starts_with("new:latest"));
    let on = format!("{}, {}", name(&sims[0]), name(&sims[1]));
    assert!(row.unwrap().ends_with(&on), "{}", listed.stdout);
    let loaded = models(&gateway, &["load", "new"]).await;
    assert!(
        loaded.stdout.starts_with("new: loaded on "),
        "{}",
        loaded.stdout
    );
    let unloaded = models(&gateway, &["unload", "new"]).await;
    let on = loaded.stdout.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(
        unloaded.stdout,
        format!("new: unloaded on {on}\n"),
        "{}",
        unloaded.stderr
    );
    let removed = models(&gateway, &["rm", "new"]).await;
    assert_eq!(
        (removed.code, &*removed.stdout),
        (Some(0), "new: deleted\n")
    );
    until_held_by(&gateway, "new:latest", &[]).await;
    let json = models(&gateway, &["list", "--json"]).await;
    let page: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(page["models"][0]["model"], "tiny:latest");
}

#[tokio::test]
async fn the_command_fails_and_names_the_server_that_failed() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    sims[1].arm(Fault::new(FaultKind::die_after(2, Ending::Reset)).for_path("/api/pull"));
    let pulled = models(&gateway, &["pull", "new", "--servers", "all"]).await;
    assert_eq!(pulled.code, Some(1));
    let error = format!("pull new: 1 of 3 servers failed: {}: ", name(&sims[1]));
    assert!(pulled.stderr.contains(&error), "{}", pulled.stderr);
    until_held_by(&gateway, "new:latest", &[&sims[0], &sims[2]]).await;
    let json = models(&gateway, &["pull", "new", "--servers", "all", "--json"]).await;
    assert_eq!(json.code, Some(1));
    assert!(lines(&json.stdout).last().unwrap()["error"].is_string());
    let missing = models(&gateway, &["rm", "nothing"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.stderr.contains("delete nothing: "),
        "{}",
        missing.stderr
    );
}

#[tokio::test]
async fn sync_pulls_the_declared_models_that_are_missing() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let declared = format!(
        "[models]\nall = [\"TINY\"]\n\"{}\" = [\"new\"]\n",
        name(&sims[1])
    );
    file.write_all(declared.as_bytes()).unwrap();
    let config = file.path().to_str().unwrap().to_owned();
    let sync = |more: &'static [&'static str]| {
        let mut arguments = vec!["sync", "--config", &config];
        arguments.extend(more);
        let gateway = &gateway;
        async move { models(gateway, &arguments).await }
    };
    let dry = sync(&["--dry-run"]).await;
    assert_eq!(dry.code, Some(1), "{}", dry.stderr);
    assert_eq!(
        dry.stdout,
        format!("new:latest: missing on {}\n", name(&sims[1]))
    );
    assert_eq!(asked(&sims[1], "/api/pull"), 0);
    let synced = sync(&[]).await;
    assert_eq!(synced.code, Some(0), "{}", synced.stderr);
    until_held_by(&gateway, "new:latest", &[&sims[1]]).await;
    let again = sync(&["--dry-run", "--prune"]).await;
    assert_eq!(
        (again.code, &*again.stdout),
        (Some(0), ""),
        "{}",
        again.stderr
    );
    assert_eq!(send(pull(&gateway, &name(&sims[0]))).await.status, 200);
    until_held_by(&gateway, "new:latest", &[&sims[0], &sims[1]]).await;
    assert_eq!(sync(&[]).await.code, Some(0));
    assert_eq!(asked(&sims[0], "/api/delete"), 0, "only with --prune");
    let pruned = sync(&["--prune"]).await;
    assert_eq!(pruned.stdout, "new:latest: deleted\n", "{}", pruned.stderr);
    until_held_by(&gateway, "new:latest", &[&sims[1]]).await;
    until_held_by(&gateway, "tiny:latest", &sims.each_ref()).await;
}

#[tokio::test]
async fn sync_refuses_a_declaration_that_it_cannot_use() {
    let sims = three().await;
    let gateway = gateway(&sims, &[]).await;
    for (text, reason) in [
        ("", "has no table [models]"),
        (
            "[models]\nnowhere = [\"a\"]\n",
            "names the server \"nowhere\"",
        ),
        ("[models]\nall = [3]\n", "neither a model nor a list"),
        ("models = 3\n", "write [models]"),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let config = file.path().to_str().unwrap();
        let refused = models(&gateway, &["sync", "--config", config]).await;
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    }
}
