//! A log on a disk that is full for a time.

use std::process::Stdio;

use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::harness::{tiny, within_limit};

/// Limits the size of the files that a process may write, as a full disk does.
async fn limit(process: &Child, bytes: &str) {
    let process = process.id().unwrap().to_string();
    let limit = format!("--fsize={bytes}:unlimited");
    let limited = Command::new("prlimit")
        .args(["--pid", &process, &limit])
        .status();
    assert!(limited.await.unwrap().success());
}

fn lines(log: &NamedTempFile) -> Vec<String> {
    let text = std::fs::read_to_string(log.path()).unwrap();
    text.lines().map(str::to_owned).collect()
}

async fn get(url: &str) -> String {
    within_limit("an answer", async {
        reqwest::get(url).await.unwrap().text().await.unwrap()
    })
    .await
}

/// The address of a listener, from the log.
async fn address(log: &NamedTempFile, audience: &str) -> String {
    within_limit("an address in the log", async {
        loop {
            for line in lines(log) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["message"] == "listening" && line["for"] == audience {
                    return format!("http://{}", line["address"].as_str().unwrap());
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn lines_that_cannot_be_written_are_counted_and_told_and_cut_none_of_the_others() {
    let (sim, log) = (tiny().await, NamedTempFile::new().unwrap());
    let mut process = Command::new(env!("CARGO_BIN_EXE_llamatower"))
        .env_clear()
        .env("OLLAMA_URL", sim.url())
        .env("LLAMATOWER_LISTEN", "127.0.0.1:0")
        .env("LLAMATOWER_ADMIN_LISTEN", "127.0.0.1:0")
        .env("LLAMATOWER_DRAIN_DELAY", "0")
        .stdin(Stdio::null())
        .stdout(log.reopen().unwrap())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let gateway = address(&log, "clients").await;
    let operators = address(&log, "operators").await;
    let problem = async || {
        let status: Value =
            serde_json::from_str(&get(&format!("{operators}/status")).await).unwrap();
        status["gateway"]["log_problem"].clone()
    };
    let lost = async || {
        let page = get(&format!("{operators}/metrics")).await;
        let name = "llamatower_log_lines_dropped_total";
        let mut samples = page.lines().filter(|line| line.starts_with(name));
        let sample = samples.next().unwrap().rsplit_once(' ').unwrap().1;
        sample.parse::<f64>().unwrap()
    };
    let unknown = format!("{gateway}/unknown");
    get(&unknown).await;
    assert_eq!((problem().await, lost().await), (Value::Null, 0.0));
    // Room for a part of a line.
    let size = log.path().metadata().unwrap().len();
    limit(&process, &(size + 30).to_string()).await;
    for _ in 0..3 {
        get(&unknown).await;
    }
    within_limit("three lost lines", async { while lost().await < 3.0 {} }).await;
    let text = problem().await;
    assert!(text.as_str().unwrap().contains("File too large"), "{text}");

    limit(&process, "unlimited").await;
    within_limit("a line that is written", async {
        while !problem().await.is_null() {
            get(&unknown).await;
        }
    })
    .await;
    let is_told = |line: &String| line.contains("the log could not be written for a time");
    within_limit("a word about it in the log", async {
        while !lines(&log).iter().any(is_told) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let is_json = |line: &String| serde_json::from_str::<Value>(line).is_ok();
    let cut: Vec<_> = lines(&log)
        .into_iter()
        .filter(|line| !is_json(line))
        .collect();
    assert!(cut.len() <= 1, "{cut:?}");
    process.start_kill().unwrap();
    let mut said = String::new();
    let mut stderr = process.stderr.take().unwrap();
    stderr.read_to_string(&mut said).await.unwrap();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("the log cannot be written"), "{said:?}");
}
