//! The findings of `llamatower doctor`.

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
use serde_json::Value;

use crate::harness::{run, tiny};

/// The exit code and the report.
pub(crate) async fn examined(
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> (Option<i32>, Value) {
    let mut all = vec!["doctor", "--json"];
    all.extend(arguments);
    let exited = run(&all, settings).await;
    let report = serde_json::from_str(&exited.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}{}", exited.stdout, exited.stderr));
    (exited.code, report)
}

/// The finding of this kind.
pub(crate) fn finding<'a>(report: &'a Value, code: &str) -> &'a Value {
    let mut findings = report["findings"].as_array().unwrap().iter();
    let found = findings.find(|finding| finding["code"] == code);
    found.unwrap_or_else(|| panic!("no {code} in {report:#}"))
}

pub(crate) fn has(report: &Value, code: &str) -> bool {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().any(|finding| finding["code"] == code)
}

fn urls(sims: &[&SimHandle]) -> String {
    let urls: Vec<_> = sims.iter().map(|sim| sim.url()).collect();
    urls.join(",")
}

async fn server(version: &str, models: &[(&str, &str)]) -> SimHandle {
    let mut builder = Sim::builder().version(version);
    for (name, digest) in models {
        builder = builder.model(ModelSpec::new(*name).with_digest(*digest));
    }
    builder.start().await.unwrap()
}

#[tokio::test]
async fn healthy_servers_are_listed_without_errors() {
    let (one, other) = (tiny().await, tiny().await);
    let urls = urls(&[&one, &other]);
    let (code, report) = examined(&[], &[("OLLAMA_URL", &urls)]).await;
    assert_eq!(
        (code, &report["is_fine"]),
        (Some(0), &Value::Bool(true)),
        "{report:#}"
    );
    let servers = report["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 2);
    assert_eq!(servers[0]["is_up"], true);
    assert_eq!(servers[0]["models"][0]["name"], "tiny:latest");
    assert!(servers[0]["version"].is_string() && servers[0]["listing_seconds"].is_f64());
    // A fact that cannot be determined is reported, with what to compare.
    let slots = finding(&report, "slots_unseen");
    assert!(
        slots["change"]
            .as_str()
            .unwrap()
            .contains("OLLAMA_NUM_PARALLEL")
    );
}

#[tokio::test]
async fn the_report_for_people_has_a_line_for_each_server_and_each_finding() {
    let sim = tiny().await;
    let model = ("DEFAULT_OLLAMA_MODEL", "large");
    let exited = run(&["doctor"], &[("OLLAMA_URL", &sim.url()), model]).await;
    assert_eq!(exited.code, Some(1), "{}", exited.stdout);
    for told in [
        &*sim.addr().to_string(),
        "models: 1,",
        "error    DEFAULT_OLLAMA_MODEL: no server that responds has large",
        "-> pull large",
        "errors: 1,",
    ] {
        assert!(
            exited.stdout.contains(told),
            "{told} is not in:\n{}",
            exited.stdout
        );
    }
}

#[tokio::test]
async fn an_alias_without_an_installed_model_is_a_warning() {
    let sim = tiny().await;
    let url = sim.url();
    let settings = [
        ("OLLAMA_URL", &*url),
        ("LLAMATOWER_ALIASES", "gpt=large|tiny, none=large|other"),
        ("DEFAULT_OLLAMA_MODEL", "gpt"),
    ];
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(0), "{report:#}");
    assert!(!has(&report, "default_model_missing"), "{report:#}");
    let finding = finding(&report, "alias_without_model");
    assert_eq!(finding["subject"], "LLAMATOWER_ALIASES");
    let found = finding["found"].as_str().unwrap();
    assert!(found.contains("none (large, other)"), "{finding}");
    let settings = [settings[0], settings[1], ("DEFAULT_OLLAMA_MODEL", "none")];
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(1), "{report:#}");
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_with_a_hint() {
    let gone = tiny().await;
    let url = gone.url();
    let name = gone.addr().to_string();
    gone.kill();
    let (code, report) = examined(&[], &[("OLLAMA_URL", &url)]).await;
    assert_eq!(code, Some(1));
    let finding = finding(&report, "unreachable");
    assert_eq!(finding["subject"], name.as_str());
    assert!(
        finding["found"].as_str().unwrap().contains("refused"),
        "{finding}"
    );
    assert!(finding["change"].as_str().unwrap().contains("OLLAMA_URL"));
    assert_eq!(report["servers"][0]["is_up"], false);
    let text = run(&["doctor"], &[("OLLAMA_URL", &url)]).await.stdout;
    let row = format!("{name}  cannot be reached");
    assert!(
        text.contains(&row) && !text.contains("respond like Ollama"),
        "{text}"
    );
    let admin = format!("ops=sha256:{}", "0".repeat(64));
    let settings = [("OLLAMA_URL", &*url), ("LLAMATOWER_ADMIN_KEYS", &admin)];
    let (_, report) = examined(&[], &settings).await;
    assert!(has(&report, "management_unreachable"), "{report:#}");
}

#[tokio::test]
async fn a_missing_token_and_another_program_have_different_errors() {
    for (status, code, change) in [
        (401, "refused", "LLAMATOWER_BACKEND_TOKENS"),
        (403, "refused", "LLAMATOWER_BACKEND_TOKENS"),
        (404, "not_ollama", "OLLAMA_URL"),
        (200, "not_ollama", "OLLAMA_URL"),
    ] {
        let sim = tiny().await;
        let kind = FaultKind::Status {
            status,
            body: "<html>".to_owned(),
        };
        sim.arm(Fault::new(kind));
        let (exit, report) = examined(&[], &[("OLLAMA_URL", &sim.url())]).await;
        assert_eq!(exit, Some(1), "{status}");
        let finding = finding(&report, code);
        assert!(
            finding["change"].as_str().unwrap().contains(change),
            "{finding}"
        );
        assert!(!finding.to_string().contains("<html>"), "{finding}");
    }
}

#[tokio::test]
async fn different_versions_are_reported_with_their_servers() {
    let sims = [
        server("0.17.4", &[("a", "1")]).await,
        server("0.16.0", &[("a", "1")]).await,
    ];
    let urls = urls(&[&sims[0], &sims[1]]);
    let (code, report) = examined(&[], &[("OLLAMA_URL", &urls)]).await;
    assert_eq!(code, Some(0), "it works");
    let found = finding(&report, "versions_differ")["found"].to_string();
    for told in [
        "0.17.4",
        "0.16.0",
        &sims[0].addr().to_string(),
        &sims[1].addr().to_string(),
    ] {
        assert!(found.contains(told), "{found}");
    }
    assert!(!has(&report, "digests_differ"));
}

#[tokio::test]
async fn a_name_with_two_digests_is_reported_with_its_servers() {
    let one = server("0.17.4", &[("a", "aaaa"), ("b", "bbbb")]).await;
    let other = server("0.17.4", &[("a", "cccc"), ("b", "bbbb")]).await;
    let urls = urls(&[&one, &other]);
    let (_, report) = examined(&[], &[("OLLAMA_URL", &urls)]).await;
    let found = finding(&report, "digests_differ");
    assert_eq!(found["subject"], "a:latest");
    let found = found["found"].to_string();
    assert!(found.contains("aaaa") && found.contains("cccc"), "{found}");
    assert!(!report["findings"].to_string().contains("bbbb"));
    assert!(!has(&report, "versions_differ"));
}

#[tokio::test]
async fn a_server_slower_than_the_probe_timeout_is_reported_with_the_setting() {
    let sim = tiny().await;
    let slow = FaultKind::silence(std::time::Duration::from_millis(300));
    sim.arm(Fault::new(slow).for_path("/api/tags"));
    let clocks = [
        ("OLLAMA_URL", &*sim.url()),
        ("LLAMATOWER_PROBE_TIMEOUT", "200ms"),
        ("LLAMATOWER_CONNECT_TIMEOUT", "200ms"),
    ];
    let (code, report) = examined(&[], &clocks).await;
    assert_eq!(code, Some(1), "{report:#}");
    let finding = finding(&report, "slow_answer");
    assert!(
        finding["change"]
            .to_string()
            .contains("LLAMATOWER_PROBE_TIMEOUT"),
        "{finding}"
    );
}

#[tokio::test]
async fn a_load_longer_than_its_timeout_is_an_error() {
    let model = ModelSpec::new("slow").with_load_time(std::time::Duration::from_millis(300));
    let sim = Sim::builder().model(model).start().await.unwrap();
    let url = sim.url();
    let clocks = [("OLLAMA_URL", &*url), ("LLAMATOWER_LOAD_TIMEOUT", "100ms")];
    let (code, report) = examined(&["--load", "slow"], &clocks).await;
    assert_eq!(code, Some(1), "{report:#}");
    let load = finding(&report, "load_time");
    assert_eq!(load["level"], "error");
    assert!(
        load["change"]
            .to_string()
            .contains("LLAMATOWER_LOAD_TIMEOUT"),
        "{load}"
    );
    assert!(report["servers"][0]["load"]["seconds"].as_f64().unwrap() >= 0.3);
    // The model is in memory now, so there is no load time.
    let (code, report) = examined(&["--load", "slow"], &clocks).await;
    assert_eq!(
        (code, &report["servers"][0]["load"]["was_loaded"]),
        (Some(0), &Value::Bool(true))
    );
}

#[tokio::test]
async fn loading_an_unknown_model_is_an_error() {
    let sim = tiny().await;
    let (code, report) = examined(&["--load", "large"], &[("OLLAMA_URL", &sim.url())]).await;
    assert_eq!(code, Some(1));
    assert_eq!(finding(&report, "load_failed")["subject"], "large");
}

#[tokio::test]
async fn without_load_it_loads_no_model() {
    let sim = tiny().await;
    examined(&[], &[("OLLAMA_URL", &sim.url())]).await;
    let paths: Vec<_> = sim
        .requests()
        .into_iter()
        .map(|seen| seen.path().to_owned())
        .collect();
    assert!(
        paths.iter().all(|path| !path.contains("generate")),
        "{paths:?}"
    );
}

#[tokio::test]
async fn another_program_at_the_gateways_address_is_an_error() {
    let (sim, other) = (tiny().await, tiny().await);
    let url = sim.url();
    let taken = other.addr().to_string();
    let settings = [("OLLAMA_URL", &*url), ("LLAMATOWER_LISTEN", &taken)];
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(1));
    let found = finding(&report, "listener_taken");
    assert!(
        found["change"].to_string().contains("LLAMATOWER_LISTEN"),
        "{found}"
    );

    let gateway = crate::harness::Gateway::start(&[&sim], &[]).await;
    let address = gateway.socket_address().to_string();
    let settings = [("OLLAMA_URL", &*url), ("LLAMATOWER_LISTEN", &address)];
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(0), "{report:#}");
    assert!(has(&report, "gateway_serves"));
}

#[tokio::test]
async fn wrong_settings_end_it_with_2_and_are_reported() {
    let (code, report) = examined(&[], &[("LLAMATOWER_API_KEY", "x")]).await;
    assert_eq!(code, Some(2));
    assert_eq!(report["errors"][0]["subject"], "LLAMATOWER_API_KEY");
}
