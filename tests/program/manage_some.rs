//! Management of models where some of the servers cannot be asked, and what its commands tell.

use std::io::Write;

use llamatower_sim::{Ending, Fault, FaultKind, ModelSpec, Sim};
use serde_json::{Value, json};

use super::manage::{
    KEY, SERVERS, asked, gateway, holders, lines, models, name, pull, server, until_held_by,
};
use crate::harness::{ADMIN_BEN, Gateway, run, send};

const NOT_KNOWN: &str = "it is down, and its models are not known";

/// A gateway that has been started while the second server, whose address this is, was down.
async fn with_one_down() -> (llamatower_sim::SimHandle, std::net::SocketAddr, Gateway) {
    let (up, down) = (server().await, server().await);
    let address = down.addr();
    let urls = format!("{},{}", up.url(), down.url());
    down.kill();
    let settings = [ADMIN_BEN, ("OLLAMA_URL", &*urls)];
    let gateway = Gateway::start(&[], &settings).await;
    gateway.until_up(&[&up]).await;
    (up, address, gateway)
}

#[tokio::test]
async fn a_delete_for_all_names_the_servers_whose_models_are_not_known() {
    let (up, down, gateway) = with_one_down().await;
    let removed = models(&gateway, &["rm", "tiny"]).await;
    assert_eq!(removed.code, Some(1), "{}", removed.stdout);
    let error = format!("delete tiny: 1 of 2 servers failed: {down}: {NOT_KNOWN}");
    assert!(removed.stderr.contains(&error), "{}", removed.stderr);
    assert_eq!(asked(&up, "/api/delete"), 1, "the other one was asked");
    assert!(holders(&gateway, "tiny:latest").await.is_empty());
    // No server is known to have it any more.
    let again = models(&gateway, &["rm", "tiny"]).await;
    assert_eq!(again.code, Some(1), "{}", again.stdout);
    let error = format!("1 of 1 server failed: {down}: {NOT_KNOWN}");
    assert!(again.stderr.contains(&error), "{}", again.stderr);
    let line = gateway.access_line("/api/delete").await;
    assert_eq!(line["failed_backends"], down.to_string(), "{line}");

    let sim = Sim::builder().model(ModelSpec::new("tiny")).listen(down);
    let back = sim.start().await.unwrap();
    gateway.until_up(&[&back]).await;
    let last = models(&gateway, &["rm", "tiny"]).await;
    assert_eq!(last.code, Some(0), "{}", last.stderr);
    assert_eq!(asked(&back, "/api/delete"), 1);
}

#[tokio::test]
async fn the_list_tells_which_servers_are_down() {
    let (_up, down, gateway) = with_one_down().await;
    let listed = models(&gateway, &["list"]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let last = listed.stdout.lines().last().unwrap();
    assert!(
        last.starts_with("Down") && last.ends_with(&down.to_string()),
        "{last}"
    );
}

#[tokio::test]
async fn a_list_directly_after_a_delete_or_copy_has_the_change() {
    let sims = [server().await, server().await];
    let gateway = gateway(&sims, &[]).await;
    for servers in [Some("all"), None] {
        assert_eq!(send(pull(&gateway, "all")).await.status, 200);
        until_held_by(&gateway, "new:latest", &[&sims[0], &sims[1]]).await;
        let request = |request: reqwest::RequestBuilder| {
            let request = request.bearer_auth(KEY);
            match servers {
                Some(servers) => request.header(SERVERS, servers),
                None => request,
            }
        };
        let copy = json!({"source": "new", "destination": "same"});
        let copied = send(request(gateway.post_request("/api/copy", &copy))).await;
        assert_eq!(copied.status, 200, "{}", copied.text);
        let count = if servers.is_some() { 2 } else { 1 };
        assert_eq!(holders(&gateway, "same:latest").await.len(), count);
        for model in ["new", "same"] {
            let delete = gateway.delete("/api/delete", &json!({"model": model}));
            assert_eq!(send(request(delete)).await.status, 200);
            let left = holders(&gateway, &format!("{model}:latest")).await.len();
            assert_eq!(left, if model == "new" { 2 - count } else { 0 });
        }
    }
}

#[tokio::test]
async fn a_host_stands_for_its_ollama_servers_only() {
    let [one, other, openai] = [server().await, server().await, server().await];
    let urls = format!("{},{},openai+{}/v1", one.url(), other.url(), openai.url());
    let settings = [ADMIN_BEN, ("OLLAMA_URL", &*urls)];
    let gateway = Gateway::start(&[], &settings).await;
    gateway.until_up(&[&one, &other, &openai]).await;
    let pulled = models(&gateway, &["pull", "new", "--servers", "127.0.0.1"]).await;
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    until_held_by(&gateway, "new:latest", &[&one, &other]).await;
    assert_eq!(asked(&openai, "/api/pull"), 0);
    let itself = models(&gateway, &["pull", "new", "--servers", &name(&openai)]).await;
    assert_eq!(itself.code, Some(1), "{}", itself.stdout);
    assert!(itself.stderr.contains("is no Ollama"), "{}", itself.stderr);
}

#[tokio::test]
async fn the_log_line_of_a_pull_names_all_servers_and_those_that_failed() {
    let sims = [server().await, server().await, server().await];
    let gateway = gateway(&sims, &[]).await;
    sims[0].arm(Fault::new(FaultKind::die_after(2, Ending::Reset)).for_path("/api/pull"));
    send(pull(&gateway, "all")).await;
    let line = gateway.access_line("/api/pull").await;
    let all = sims.each_ref().map(name).join(", ");
    assert_eq!(line["backends"], all, "{line}");
    assert_eq!(line["failed_backends"], name(&sims[0]), "{line}");
    assert!(line["backend"].is_null(), "{line}");
}

#[tokio::test]
async fn the_lines_of_pulls_name_the_model() {
    let sims = [Sim::builder()
        .in_registry(ModelSpec::new("new"))
        .in_registry(ModelSpec::new("newer"))
        .start()
        .await
        .unwrap()];
    let gateway = gateway(&sims, &[]).await;
    let pulled = models(&gateway, &["pull", "new", "newer"]).await;
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    for model in ["new", "newer"] {
        let success = format!("{model}: {}: success\n", name(&sims[0]));
        assert!(pulled.stdout.contains(&success), "{}", pulled.stdout);
    }
}

#[tokio::test]
async fn loads_and_unloads_name_their_servers() {
    let sims = [server().await, server().await];
    let gateway = gateway(&sims, &[]).await;
    let loaded = models(&gateway, &["load", "tiny", "--json"]).await;
    let page: Value = serde_json::from_str(&loaded.stdout).unwrap();
    let on = page["server"].as_str().unwrap().to_owned();
    assert!(sims.iter().any(|sim| name(sim) == on), "{page}");
    for sim in &sims {
        crate::harness::load(sim).await;
    }
    let unloaded = models(&gateway, &["unload", "tiny"]).await;
    assert_eq!(
        unloaded.stdout,
        format!("tiny: unloaded on {}, {}\n", name(&sims[0]), name(&sims[1]))
    );
    let again = models(&gateway, &["unload", "tiny"]).await;
    assert_eq!(
        (again.code, &*again.stdout),
        (Some(0), "tiny: not in memory on any server\n")
    );
    let json = models(&gateway, &["unload", "tiny", "--json"]).await;
    let page: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(page["servers"], json!([]), "{page}");
}

#[tokio::test]
async fn the_output_of_keygen_can_be_the_file_of_the_key() {
    let output = run(&["keygen", "ops", "--admin"], &[]).await.stdout;
    let line = output.lines().last().unwrap().trim();
    let sim = server().await;
    let gateway = Gateway::start_up(&[&sim], &[("LLAMATOWER_ADMIN_KEYS", line)]).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let url = gateway.url("");
    let path = file.path().to_str().unwrap().to_owned();
    let arguments = ["models", "pull", "new", "--url", &url, "--key-file", &path];
    let without = run(&arguments[..5], &[]).await;
    let advice = "by LLAMATOWER_ADMIN_KEY or --key-file";
    assert!(without.stderr.contains(advice), "{}", without.stderr);
    file.write_all(output.as_bytes()).unwrap();
    let pulled = run(&arguments, &[]).await;
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    // Two keys are ambiguous.
    file.write_all(output.as_bytes()).unwrap();
    let refused = run(&arguments, &[]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.stdout);
    assert!(refused.stderr.contains("one key"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("llt_"), "{}", refused.stderr);
}

#[tokio::test]
async fn an_exported_key_of_commands_does_not_stop_the_gateway() {
    let sim = server().await;
    let exported = [("LLAMATOWER_ADMIN_KEY", KEY), ADMIN_BEN];
    let gateway = Gateway::start_up(&[&sim], &exported).await;
    let answer = send(pull(&gateway, "all")).await;
    assert_eq!(lines(&answer.text).last().unwrap()["status"], "success");
}
