//! What is kept over a restart: usage, token windows, the cloud's budget and cordons.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use llamatower_sim::{Fault, FaultKind, SimHandle};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    ADA_AND_BOB, ADMIN_BEN, Answer, Cloud, Gateway, chat, long_stream, run, send, tiny, until, with,
};

const DIRECTORY: &str = "LLAMATOWER_STATE_DIR";

fn path(directory: &TempDir) -> &str {
    directory.path().to_str().unwrap()
}

async fn start(sim: &SimHandle, directory: &Path, settings: &[(&str, &str)]) -> Gateway {
    let mut all = vec![(DIRECTORY, directory.to_str().unwrap())];
    all.extend(settings);
    Gateway::start_up(&[sim], &all).await
}

/// A chat request with this key.
async fn ask(gateway: &Gateway, key: &str) -> Answer {
    let request = gateway.post_request("/api/chat", &chat());
    send(request.bearer_auth(format!("{key}-secret"))).await
}

async fn usage(gateway: &Gateway, query: &str) -> Value {
    let page = gateway.admin_page(&format!("/status/usage?{query}")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.json()
}

/// Waits until what happens before this call is written.
async fn written(gateway: &Gateway) {
    let now = jiff::Timestamp::now();
    until("a write", async || {
        let state = gateway.admin_page("/status").await.json()["state"].clone();
        let time = state["written_at"].as_str().map(str::to_owned);
        time.is_some_and(|time| time.parse::<jiff::Timestamp>().unwrap() > now)
    })
    .await;
}

async fn kill(mut gateway: Gateway) {
    gateway.signal("KILL").await;
    gateway.ended().await;
}

#[tokio::test]
async fn a_crash_loses_at_most_the_last_second() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let mut answered = Vec::new();
    for _ in 0..2 {
        let gateway = start(&sim, directory.path(), &[]).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2300) {
            assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
            answered.push(Instant::now());
        }
        let killed = Instant::now();
        kill(gateway).await;
        let second = Duration::from_secs(1);
        answered.retain(|at| *at < begun || killed.duration_since(*at) > second);
        let gateway = start(&sim, directory.path(), &[]).await;
        let total = usage(&gateway, "by=total").await["total"].clone();
        let counted = total["requests"].as_u64().unwrap();
        let expected = answered.len() as u64;
        assert!(counted >= expected, "{counted} of {expected}: {total}");
        // What was counted beyond that is known from now on.
        answered.extend((expected..counted).map(|_| begun));
        kill(gateway).await;
    }
}

#[tokio::test]
async fn an_end_in_order_loses_nothing_and_the_report_is_by_day_key_and_model() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let settings = [ADA_AND_BOB, ADMIN_BEN];
    let gateway = start(&sim, directory.path(), &settings).await;
    for key in ["ada", "ada", "bob"] {
        assert_eq!(ask(&gateway, key).await.status, 200);
    }
    assert_eq!(ask(&gateway, "eve").await.status, 401);
    let before = usage(&gateway, "").await;
    assert_eq!(gateway.terminate().await, Some(0));
    let gateway = start(&sim, directory.path(), &settings).await;
    let after = usage(&gateway, "").await;
    assert_eq!(after, before);
    assert_eq!(
        (&after["is_kept"], &after["by"], &after["time_zone"]),
        (&json!(true), &json!(["day", "key", "model"]), &json!("UTC"))
    );
    let rows = after["rows"].as_array().unwrap();
    let names = |row: &Value| [&row["key"], &row["model"], &row["requests"]].map(Value::to_string);
    let names: Vec<_> = rows.iter().map(|row| names(row).join(" ")).collect();
    let expected = [
        r#""ada" "tiny:latest" 2"#,
        r#""anonymous" "other" 1"#,
        r#""bob" "tiny:latest" 1"#,
    ];
    assert_eq!(names, expected);
    assert!(rows[0]["input_tokens"].as_u64() > Some(0), "{after}");
    assert!(rows[0]["output_tokens"].as_u64() > Some(0), "{after}");
    assert!(rows[0]["seconds"].as_f64() > Some(0.0), "{after}");
    assert_eq!(
        (&rows[1]["refused"], &rows[1]["seconds"]),
        (&json!(1), &json!(0.0))
    );
    assert_eq!(after["total"]["requests"], 4);
}

#[tokio::test]
async fn a_used_up_budget_of_a_day_is_used_up_after_a_crash() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let settings = [
        ADA_AND_BOB,
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "20/day,1000000/month"),
        ("LLAMATOWER_KEY_LIMITS", "bob:tokens=500000/day"),
    ];
    let gateway = start(&sim, directory.path(), &settings).await;
    for (key, status) in [("ada", 200), ("ada", 429), ("bob", 200)] {
        assert_eq!(ask(&gateway, key).await.status, status, "{key}");
    }
    written(&gateway).await;
    kill(gateway).await;
    let gateway = start(&sim, directory.path(), &settings).await;
    let refused = ask(&gateway, "ada").await;
    assert_eq!(refused.status, 429, "{}", refused.text);
    let reason = "0 of this client's 20 tokens per day are left";
    assert!(refused.text.contains(reason), "{}", refused.text);
    assert_eq!(ask(&gateway, "bob").await.status, 200);
}

#[tokio::test]
async fn the_budget_of_the_cloud_is_kept_and_its_tokens_are_counted() {
    let (cloud, directory) = (Cloud::start().await, TempDir::new().unwrap());
    let mut settings = cloud.settings().to_vec();
    settings.extend([
        ("LLAMATOWER_CLOUD_WHEN", "down"),
        ("LLAMATOWER_CLOUD_ANONYMOUS", "true"),
        ("LLAMATOWER_CLOUD_TOKENS", "20"),
        ("OLLAMA_URL", "http://127.0.0.1:1"),
        (DIRECTORY, path(&directory)),
    ]);
    let gateway = Gateway::start(&[], &settings).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    written(&gateway).await;
    kill(gateway).await;
    let gateway = Gateway::start(&[], &settings).await;
    let status = gateway.admin_page("/status").await.json();
    assert_eq!(status["cloud"]["tokens_today"], 17, "{status}");
    let rows = usage(&gateway, "by=model").await["rows"].clone();
    assert_eq!(rows[0]["model"], "openai/gpt-oss-20b", "{rows}");
    let of_cloud = [
        "cloud_requests",
        "cloud_input_tokens",
        "cloud_output_tokens",
    ];
    assert_eq!(
        of_cloud.map(|name| rows[0][name].as_u64()),
        [1, 12, 5].map(Some)
    );
}

#[tokio::test]
async fn a_cordoned_server_is_cordoned_after_a_crash() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let name = sim.addr().to_string();
    let order = async |gateway: &Gateway, verb: &str| {
        let order = gateway.admin_post(&format!("/backends/{name}/{verb}"));
        assert_eq!(send(order).await.status, 200);
        written(gateway).await;
    };
    let gateway = start(&sim, directory.path(), &[]).await;
    order(&gateway, "cordon").await;
    kill(gateway).await;
    let gateway = start(&sim, directory.path(), &[]).await;
    let refused = gateway.post("/api/chat", &chat()).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("cordoned"), "{}", refused.text);
    order(&gateway, "uncordon").await;
    kill(gateway).await;
    let gateway = start(&sim, directory.path(), &[]).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
}

#[tokio::test]
async fn the_tokens_of_a_request_that_is_broken_off_are_estimated() {
    let (sim, directory) = (long_stream().await, TempDir::new().unwrap());
    let gateway = start(&sim, directory.path(), &[]).await;
    let stream = with(chat(), json!({"stream": true}));
    let mut running = gateway
        .post_request("/api/chat", &stream)
        .send()
        .await
        .unwrap();
    for _ in 0..3 {
        assert!(running.chunk().await.unwrap().is_some());
    }
    drop(running);
    gateway.access_line("/api/chat").await;
    let total = usage(&gateway, "by=total").await["total"].clone();
    assert_eq!(
        (&total["requests"], &total["estimated"]),
        (&json!(1), &json!(1))
    );
    let prompt = stream.to_string().len() as u64 / 4;
    assert_eq!(total["input_tokens"], prompt, "{total}");
    assert!(total["output_tokens"].as_u64() >= Some(3), "{total}");
}

/// What a request has cost whose client leaves once a server has it, before the head of the response: the
/// usage, and the budget of its key.
async fn cost_of_leaving(gateway: &Gateway, sim: &SimHandle, path: &str, body: &Value) -> Vec<u64> {
    load_by_asking(gateway).await;
    let before = cost(gateway).await;
    sim.arm(Fault::new(FaultKind::Hang).for_path(path));
    let seen = sim.state().requests.len();
    let request = gateway.post_request(path, body).bearer_auth("ada-secret");
    let leaving = tokio::spawn(request.send());
    sim.wait_for(|state| {
        state.requests[seen..]
            .iter()
            .any(|seen| seen.path() == path)
    })
    .await;
    leaving.abort();
    let is_it = |line: &Value| line["message"] == "request" && line["ending"] == "cancelled";
    gateway.logged("the end of the request", is_it).await;
    since(before, gateway).await
}

/// Brings the model into memory: a request that waits for a load has not used its server yet.
async fn load_by_asking(gateway: &Gateway) {
    assert_eq!(ask(gateway, "ada").await.status, 200);
    gateway.access_line("/api/chat").await;
}

/// What was spent since `before`.
async fn since(before: [u64; 4], gateway: &Gateway) -> Vec<u64> {
    let after = cost(gateway).await;
    after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect()
}

/// Requests, estimated ones and prompt tokens in the usage, and the used tokens of Ada's budget.
async fn cost(gateway: &Gateway) -> [u64; 4] {
    let total = usage(gateway, "by=total").await["total"].clone();
    let [requests, estimated, input] =
        ["requests", "estimated", "input_tokens"].map(|name| total[name].as_u64().unwrap());
    let used = gateway.sample("llamatower_token_budget_used", &["\"ada\""]);
    [requests, estimated, input, used.await.unwrap() as u64]
}

const BUDGET: (&str, &str) = ("LLAMATOWER_KEY_TOKEN_LIMIT", "100000/day");

#[tokio::test]
async fn a_client_that_leaves_before_the_response_begins_is_charged_for_the_prompt() {
    for (path, more) in [
        ("/api/chat", json!({"stream": false})),
        ("/api/chat", json!({"stream": true})),
        ("/v1/chat/completions", json!({"stream": true})),
    ] {
        let sim = tiny().await;
        let gateway = Gateway::start_up(&[&sim], &[ADA_AND_BOB, ADMIN_BEN, BUDGET]).await;
        let body = with(chat(), more);
        let prompt = body.to_string().len() as u64 / 4;
        let cost = cost_of_leaving(&gateway, &sim, path, &body).await;
        assert_eq!(cost, [1, 1, prompt, prompt], "{path} {body}");
    }
}

#[tokio::test]
async fn a_request_is_charged_for_the_prompt_if_the_server_does_not_answer_in_time() {
    let sim = tiny().await;
    let once = [
        ADA_AND_BOB,
        ADMIN_BEN,
        BUDGET,
        ("LLAMATOWER_FIRST_BYTE_TIMEOUT", "300ms"),
        ("LLAMATOWER_RETRY_ATTEMPTS", "1"),
    ];
    let gateway = Gateway::start_up(&[&sim], &once).await;
    load_by_asking(&gateway).await;
    let before = cost(&gateway).await;
    sim.arm(Fault::new(FaultKind::Hang).for_path("/api/chat"));
    let answer = ask(&gateway, "ada").await;
    assert_eq!(answer.status, 504, "{}", answer.text);
    let is_it = |line: &Value| line["message"] == "request" && line["status"] == 504;
    gateway.logged("the end of the request", is_it).await;
    let prompt = chat().to_string().len() as u64 / 4;
    assert_eq!(since(before, &gateway).await, [1, 1, prompt, prompt]);
}

#[tokio::test]
async fn a_request_that_no_server_has_got_costs_nothing() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[ADA_AND_BOB, ADMIN_BEN, BUDGET]).await;
    drop(sim);
    let answer = ask(&gateway, "ada").await;
    assert!(answer.status >= 500, "{}", answer.text);
    gateway.access_line("/api/chat").await;
    assert_eq!(cost(&gateway).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn a_load_or_unload_uses_no_tokens_and_an_answer_without_counts_has_estimated_ones() {
    let sim = tiny().await;
    let limit = ("LLAMATOWER_KEY_TOKEN_LIMIT", "20/day");
    let gateway = Gateway::start_up(&[&sim], &[ADA_AND_BOB, ADMIN_BEN, limit]).await;
    let ask_for = async |path: &str, body: &Value| {
        let request = gateway.post_request(path, body).bearer_auth("ben-secret");
        let answer = send(request).await;
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
    };
    // More than the limit, if each byte of them counted.
    for keep_alive in ["5m", "0", "5m", "0", "5m", "0"] {
        let body = json!({"model": "tiny", "keep_alive": keep_alive});
        ask_for("/api/generate", &body).await;
        ask_for("/api/chat", &with(body, json!({"messages": []}))).await;
    }
    let total = usage(&gateway, "by=total").await["total"].clone();
    let names = ["requests", "estimated", "input_tokens", "output_tokens"];
    assert_eq!(
        names.map(|name| total[name].as_u64()),
        [12, 0, 0, 0].map(Some),
        "{total}"
    );
    let body = json!({"model": "tiny", "prompt": "What is a llama?"});
    ask_for("/api/embeddings", &body).await;
    let total = usage(&gateway, "by=total").await["total"].clone();
    let estimate = body.to_string().len() as u64 / 4;
    assert_eq!(
        names.map(|name| total[name].as_u64()),
        [13, 1, estimate, 0].map(Some),
        "{total}"
    );
    let url = gateway.admin_url();
    let table = run(
        &["usage", "--admin-url", &url],
        &[("LLAMATOWER_ADMIN_KEY", "ben-secret")],
    )
    .await;
    let note = "the server sent no counts for 1 request, so its tokens are estimated";
    assert!(table.stdout.contains(note), "{}", table.stdout);
}

#[tokio::test]
async fn a_long_prompt_without_counts_is_charged_by_its_length() {
    let sim = tiny().await;
    let limit = ("LLAMATOWER_KEY_TOKEN_LIMIT", "100000/day");
    let gateway = Gateway::start_up(&[&sim], &[ADA_AND_BOB, ADMIN_BEN, limit]).await;
    let messages = json!([{"role": "user", "content": "word ".repeat(60_000)}]);
    let body = json!({"model": "tiny", "stream": true, "messages": messages});
    for status in [200, 429] {
        let request = gateway.post_request("/v1/chat/completions", &body);
        let answer = send(request.bearer_auth("ben-secret")).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    let total = usage(&gateway, "by=total").await["total"].clone();
    let expected = body.to_string().len() as u64 / 4;
    assert_eq!(total["input_tokens"], expected, "{total}");
}

/// Asks a gateway that has nowhere to keep its state.
async fn serves_without_keeping(gateway: &Gateway) -> Value {
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    let report = usage(gateway, "by=total").await;
    assert_eq!(report["is_kept"], false);
    assert_eq!(report["total"]["requests"], 1);
    gateway.admin_page("/status").await.json()["state"].clone()
}

#[tokio::test]
async fn without_a_directory_the_start_says_that_nothing_is_kept() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    let is_it = |line: &Value| {
        line["message"]
            .to_string()
            .contains("are not kept over a restart")
    };
    let line = gateway.logged("what is not kept", is_it).await;
    assert_eq!(line["level"], "INFO");
    assert!(line.to_string().contains(DIRECTORY), "{line}");
    let state = serves_without_keeping(&gateway).await;
    assert_eq!(
        (&state["is_kept"], &state["problem"]),
        (&json!(false), &Value::Null)
    );
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_a_warning_with_what_to_do() {
    // Neither can root create anything there.
    let (sim, directory) = (tiny().await, "/proc/llamatower");
    let gateway = Gateway::start_up(&[&sim], &[(DIRECTORY, directory)]).await;
    let is_it = |line: &Value| {
        line["message"]
            .to_string()
            .contains("are not kept over a restart")
    };
    let line = gateway.logged("what is not kept", is_it).await;
    assert_eq!(
        (&line["level"], &line["directory"]),
        (&json!("WARN"), &json!(directory))
    );
    assert!(line["reason"].to_string().contains("(os error "), "{line}");
    assert!(
        line["message"]
            .to_string()
            .contains("give the gateway a directory"),
        "{line}"
    );
    let state = serves_without_keeping(&gateway).await;
    assert!(state["problem"].to_string().contains(directory), "{state}");
}

#[tokio::test]
async fn the_state_directory_of_systemd_is_the_default() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let of_systemd = [("STATE_DIRECTORY", path(&directory))];
    let gateway = Gateway::start_up(&[&sim], &of_systemd).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!(usage(&gateway, "").await["is_kept"], true);
    gateway.terminate().await;
    assert!(directory.path().join("state.redb").exists());
    let checked = run(&["check"], &of_systemd).await;
    let mut lines = checked.stdout.lines();
    let line = lines.find(|line| line.starts_with(DIRECTORY)).unwrap();
    assert!(
        line.contains(path(&directory)) && line.contains("STATE_DIRECTORY"),
        "{line}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_put_aside_and_a_second_gateway_takes_the_new_one_over_later() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let file = directory.path().join("state.redb");
    fs::write(&file, [7; 50_000]).unwrap();
    let gateway = start(&sim, directory.path(), &[]).await;
    let is_it = |line: &Value| line["message"].to_string().contains("was put aside");
    let line = gateway.logged("a damaged file", is_it).await;
    assert_eq!(line["level"], "WARN");
    let aside = line["kept_as"].as_str().unwrap();
    assert_eq!(fs::read(aside).unwrap(), [7; 50_000]);
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    written(&gateway).await;

    let second = start(&sim, directory.path(), &[]).await;
    let state = serves_without_keeping(&second).await;
    assert!(
        state["problem"]
            .to_string()
            .contains("in use by another process"),
        "{state}"
    );
    let order = format!("/backends/{}/cordon", sim.addr());
    assert_eq!(send(gateway.admin_post(&order)).await.status, 200);
    written(&gateway).await;
    kill(gateway).await;
    // The file is free now, so the second one takes it over.
    let is_it = |line: &Value| line["message"].to_string().contains("from now on");
    second.logged("the file", is_it).await;
    assert_eq!(second.post("/api/chat", &chat()).await.status, 503);
    let report = usage(&second, "").await;
    assert_eq!(
        (&report["is_kept"], &report["total"]["requests"]),
        (&json!(true), &json!(3))
    );
    written(&second).await;
    kill(second).await;
    let gateway = start(&sim, directory.path(), &[]).await;
    assert_eq!(usage(&gateway, "").await["total"]["requests"], 3);
}

#[tokio::test]
async fn while_nothing_can_be_written_requests_are_served_and_counted() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let gateway = start(&sim, directory.path(), &[]).await;
    // As on a full disk: no file may grow, or be written at all.
    gateway.limit_file_size("0").await;
    for _ in 0..3 {
        assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    }
    let is_it = |line: &Value| {
        line["message"]
            .to_string()
            .contains("usage cannot be written")
    };
    let line = gateway.logged("a failed write", is_it).await;
    assert_eq!(line["level"], "WARN");
    let state = gateway.admin_page("/status").await.json()["state"].clone();
    assert!(state["problem"].is_string(), "{state}");
    assert_eq!(state["is_kept"], false);
    let report = usage(&gateway, "by=total").await;
    assert_eq!(
        (&report["is_kept"], &report["problem"]),
        (&json!(false), &state["problem"])
    );
    assert_eq!(report["total"]["requests"], 3);
    let metrics = gateway.admin_page("/metrics").await.text;
    assert!(
        metrics.contains("\nllamatower_state_written 0\n"),
        "{metrics}"
    );
    let url = gateway.admin_url();
    let table = run(&["usage", "--admin-url", &url], &[]).await.stdout;
    let note = "; not kept over a restart: ";
    assert!(table.contains(note), "{table}");
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    gateway.limit_file_size("unlimited").await;
    gateway
        .logged("writes again", |line| {
            line["message"] == "usage is written again"
        })
        .await;
    let state = gateway.admin_page("/status").await.json()["state"].clone();
    assert_eq!(
        (&state["problem"], &state["is_kept"]),
        (&Value::Null, &json!(true))
    );
    let warnings = gateway.lines_of(line["message"].as_str().unwrap());
    assert_eq!(warnings, 1, "it is told once");
    kill(gateway).await;
    let gateway = start(&sim, directory.path(), &[]).await;
    assert_eq!(usage(&gateway, "by=total").await["total"]["requests"], 4);
}

#[tokio::test]
async fn usage_is_for_administrators() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let trusted = ("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.1");
    let gateway = start(&sim, directory.path(), &[ADA_AND_BOB, ADMIN_BEN, trusted]).await;
    let url = format!("{}/status/usage?format=csv", gateway.admin_url());
    let remote = || {
        reqwest::Client::new()
            .get(&url)
            .header("x-forwarded-for", "10.0.0.7")
    };
    assert_eq!(send(remote()).await.status, 403);
    assert_eq!(send(remote().bearer_auth("ada-secret")).await.status, 403);
    let page = send(remote().bearer_auth("ben-secret")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert_eq!(
        page.header("content-type"),
        "text/csv; charset=utf-8; header=present"
    );
    let wrong = gateway.admin_page("/status/usage?by=user").await;
    assert_eq!(wrong.status, 400);
    assert!(
        wrong
            .text
            .starts_with("400 the parameter by: \"user\" is unknown"),
        "{}",
        wrong.text
    );
    let posted = send(gateway.admin_post("/status/usage")).await;
    assert_eq!(posted.status, 405);
}

#[tokio::test]
async fn the_command_prints_a_table_csv_and_json() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let gateway = start(&sim, directory.path(), &[ADA_AND_BOB, ADMIN_BEN]).await;
    for key in ["ada", "bob", "bob"] {
        assert_eq!(ask(&gateway, key).await.status, 200);
    }
    let url = gateway.admin_url();
    let show = async |more: &[&str]| {
        let mut arguments = vec!["usage", "--admin-url", &url];
        arguments.extend(more);
        run(&arguments, &[]).await
    };
    let table = show(&["--by", "key,model"]).await;
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let lines: Vec<Vec<_>> = (table.stdout.lines())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..4], ["KEY", "MODEL", "REQUESTS", "REFUSED"]);
    assert_eq!(lines[1][..3], ["ada", "tiny:latest", "1"]);
    assert_eq!(lines[2][..3], ["bob", "tiny:latest", "2"]);
    assert_eq!(lines[3][..2], ["total", "3"]);

    let text = show(&["--by", "key,model", "--csv"]).await.stdout;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        rows[1].iter().take(3).collect::<Vec<_>>(),
        ["bob", "tiny:latest", "2"]
    );

    let json: Value = serde_json::from_str(&show(&["--json"]).await.stdout).unwrap();
    assert_eq!(json, usage(&gateway, "").await);
    let wrong = show(&["--from", "soon"]).await;
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.stderr.contains(r#"from: "soon" is not a day"#),
        "{}",
        wrong.stderr
    );
}

#[tokio::test]
async fn names_that_clients_invent_make_no_rows() {
    let (sim, directory) = (tiny().await, TempDir::new().unwrap());
    let gateway = start(&sim, directory.path(), &[]).await;
    for number in 0..300 {
        let body = with(chat(), json!({"model": format!("model-{number}")}));
        let request = gateway.post_request("/api/chat", &body);
        let request = request.bearer_auth(format!("key-{number}"));
        assert_eq!(send(request).await.status, 404);
    }
    let rows = usage(&gateway, "by=key,model").await["rows"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    assert_eq!(
        (&rows[0]["key"], &rows[0]["model"]),
        (&json!("anonymous"), &json!("other"))
    );
    assert_eq!(rows[0]["requests"], 300);
}
