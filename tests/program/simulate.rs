//! `llamatower simulate` as its users see it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::run;

const SMALL: [&str; 7] = [
    "simulate",
    "--scenario",
    "many-models",
    "--requests",
    "300",
    "--seed",
    "7",
];

#[tokio::test]
async fn the_same_seed_gives_the_same_output_in_each_process() {
    for format in [&[][..], &["--json"]] {
        let arguments = [&["simulate", "--requests", "300"], format].concat();
        let one = run(&arguments, &[]).await;
        assert_eq!((one.code, &*one.stderr), (Some(0), ""));
        assert_eq!(run(&arguments, &[]).await.stdout, one.stdout);
    }
}

#[tokio::test]
async fn the_table_names_the_seed_the_scenario_and_each_policy() {
    let exited = run(&SMALL, &[]).await;
    let text = exited.stdout;
    assert!(text.starts_with("300 made-up requests, seed 7."), "{text}");
    assert!(text.contains("many-models: four servers"), "{text}");
    let row = |policy: &str| {
        let mut lines = text.lines().map(str::trim_start);
        lines.any(|line| line.starts_with(policy))
    };
    for policy in ["gateway", "central", "least-outstanding", "random"] {
        assert!(row(policy), "{policy}: {text}");
    }
    assert!(!text.contains("speed-skew"), "{text}");
}

#[tokio::test]
async fn json_has_the_figures_of_the_chosen_policies() {
    let arguments = [&SMALL[..], &["--json", "--policy", "gateway"]].concat();
    let exited = run(&arguments, &[]).await;
    let told: Value = serde_json::from_str(&exited.stdout).unwrap();
    assert_eq!((&told["seed"], &told["requests"]), (&7.into(), &300.into()));
    let scenario = &told["scenarios"][0];
    assert_eq!(scenario["name"], "many-models");
    let policies = scenario["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1);
    let gateway = &policies[0];
    assert_eq!(gateway["policy"], "gateway");
    let number = |name: &str| gateway[name].as_f64().unwrap();
    assert!(number("first_token_p99_seconds") >= number("first_token_p50_seconds"));
    assert!(number("loads") >= 6.0 && number("swaps") <= number("loads"));
    assert_eq!(number("failed_percent"), 0.0);
}

#[tokio::test]
async fn an_unknown_name_is_an_error_that_has_the_names() {
    for (option, known) in [("--scenario", "speed-skew, "), ("--policy", "gateway, ")] {
        let exited = run(&["simulate", option, "fast"], &[]).await;
        assert_eq!((exited.code, &*exited.stdout), (Some(2), ""));
        let error = exited.stderr;
        assert!(
            error.contains("\"fast\"") && error.contains(known),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_list_has_all_names() {
    let exited = run(&["simulate", "--list"], &[]).await;
    assert_eq!(exited.code, Some(0));
    for name in ["speed-skew", "flapping", "gateway", "two-choices"] {
        assert!(exited.stdout.contains(name), "{}", exited.stdout);
    }
}

#[tokio::test]
async fn a_trace_with_a_broken_line_is_an_error_with_the_place_and_nothing_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, plots) = (dir.path().join("trace.csv"), dir.path().join("plots"));
    let mut text = "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned();
    text += "2023-11-16 18:17:03.97,400,10\n2023-11-16 18:17:04.03,400,ten\n";
    std::fs::write(&trace, text).unwrap();
    let (trace, svg) = (trace.to_str().unwrap(), plots.to_str().unwrap());
    let exited = run(&["simulate", "--trace", trace, "--svg", svg], &[]).await;
    assert_eq!((exited.code, &*exited.stdout), (Some(2), ""));
    let place = format!("{trace}:3: GeneratedTokens is \"ten\"");
    assert!(exited.stderr.contains(&place), "{}", exited.stderr);
    assert!(!plots.exists());
}

#[tokio::test]
async fn a_trace_in_each_format_is_simulated() {
    let mut azure = tempfile::NamedTempFile::new().unwrap();
    writeln!(azure, "TIMESTAMP,ContextTokens,GeneratedTokens").unwrap();
    writeln!(azure, "2023-11-16 18:17:03.97,400,10").unwrap();
    writeln!(azure, "2023-11-16 18:17:05.97,400,20").unwrap();
    let mut mooncake = tempfile::NamedTempFile::new().unwrap();
    for line in [
        r#"{"timestamp": 0, "input_length": 1200, "output_length": 20, "hash_ids": [0, 1, 2]}"#,
        r#"{"timestamp": 900, "input_length": 1400, "output_length": 30, "hash_ids": [0, 1, 3]}"#,
    ] {
        writeln!(mooncake, "{line}").unwrap();
    }
    for file in [azure, mooncake] {
        let trace = file.path().to_str().unwrap();
        let exited = run(&["simulate", "--trace", trace, "--json"], &[]).await;
        let told: Value = serde_json::from_str(&exited.stdout).unwrap();
        assert_eq!(told["requests"], 2);
        let policies = told["scenarios"][0]["policies"].as_array().unwrap();
        assert!(policies.iter().all(|row| row["failed_percent"] == 0.0));
    }
}

#[tokio::test]
async fn plots_are_written_for_each_scenario() {
    let dir = tempfile::tempdir().unwrap();
    let plots = dir.path().join("new/plots");
    let arguments = [&SMALL[..], &["--svg", plots.to_str().unwrap()]].concat();
    assert_eq!(run(&arguments, &[]).await.code, Some(0));
    let svg = std::fs::read_to_string(plots.join("many-models.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("least-outstanding"));
}

#[tokio::test]
async fn a_plot_that_cannot_be_written_is_an_error_before_the_first_run() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let arguments = [&SMALL[..], &["--svg", file.path().to_str().unwrap()]].concat();
    let exited = run(&arguments, &[]).await;
    assert_eq!((exited.code, &*exited.stdout), (Some(1), ""));
    assert!(exited.stderr.contains("cannot write"), "{}", exited.stderr);
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_llamatower"))
        .args(["simulate", "--requests", "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    output.read_line(&mut first).unwrap();
    drop(output);
    let exited = process.wait_with_output().unwrap();
    assert!(first.starts_with("300 made-up"));
    assert_eq!(exited.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&exited.stderr), "");
}
