//! The findings of `llamatower doctor` about the cloud service and OpenAI-compatible servers.

use llamatower_sim::{Fault, FaultKind};

use super::doctor::{examined, finding, has};
use crate::harness::{Cloud, Reply, run, tiny};

const WHEN: (&str, &str) = ("LLAMATOWER_CLOUD_WHEN", "down,missing");
const ANONYMOUS: (&str, &str) = ("LLAMATOWER_CLOUD_ANONYMOUS", "true");

#[tokio::test]
async fn a_key_and_models_that_the_cloud_service_accepts_are_a_note() {
    let (sim, cloud) = (tiny().await, Cloud::start().await);
    let url = sim.url();
    let settings = [
        &cloud.settings()[..],
        &[("OLLAMA_URL", &*url), WHEN, ANONYMOUS],
    ]
    .concat();
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(0), "{report:#}");
    let ready = finding(&report, "cloud_ready");
    assert_eq!(ready["level"], "note");
    let address = cloud.settings()[0].1.trim_start_matches("https://");
    assert_eq!(ready["subject"], address);
    // Without a policy the service is not asked.
    let settings = [&cloud.settings()[..], &[("OLLAMA_URL", &*url)]].concat();
    cloud.reply(Reply::Refusal(401, ""));
    let (_, report) = examined(&[], &settings).await;
    assert!(!report.to_string().contains("cloud_"), "{report:#}");
}

#[tokio::test]
async fn a_refused_key_is_an_error_before_the_first_request() {
    let (sim, cloud) = (tiny().await, Cloud::start().await);
    let url = sim.url();
    let [address, authority, models, _] = cloud.settings();
    let wrong = ("GROQ_API_KEY", "gsk-wrong");
    let mine = ("OLLAMA_URL", &*url);
    let settings = [address, authority, models, wrong, mine, WHEN, ANONYMOUS];
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(1), "{report:#}");
    let refused = finding(&report, "cloud_key_refused");
    assert!(refused["found"].to_string().contains("401"), "{refused}");
    assert!(refused["change"].to_string().contains("GROQ_API_KEY"));
    assert!(!report.to_string().contains("gsk-wrong"), "{report:#}");
}

#[tokio::test]
async fn a_mapped_model_that_the_service_does_not_list_is_named() {
    let (sim, cloud) = (tiny().await, Cloud::start().await);
    let url = sim.url();
    let [address, authority, _, key] = cloud.settings();
    let models = (
        "LLAMATOWER_CLOUD_MODELS",
        "tiny=openai/gpt-oss-20b,large=no/such,huge=no/such",
    );
    let mine = ("OLLAMA_URL", &*url);
    let settings = [address, authority, models, key, mine, WHEN, ANONYMOUS];
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(0), "{report:#}");
    let unlisted = finding(&report, "cloud_model_unlisted");
    let found = unlisted["found"].as_str().unwrap();
    assert!(found.contains("does not list no/such, to which"), "{found}");
}

#[tokio::test]
async fn a_service_without_the_list_or_without_a_response_is_an_error_that_names_the_setting() {
    let (sim, cloud) = (tiny().await, Cloud::start().await);
    let url = sim.url();
    let settings = [
        &cloud.settings()[..],
        &[("OLLAMA_URL", &*url), WHEN, ANONYMOUS],
    ]
    .concat();
    cloud.reply(Reply::Refusal(404, ""));
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(1), "{report:#}");
    let wrong = finding(&report, "cloud_no_list");
    assert!(wrong["found"].to_string().contains("/v1/models"), "{wrong}");
    assert!(wrong["change"].to_string().contains("LLAMATOWER_CLOUD_URL"));

    let gone = tiny().await;
    let address = gone.url();
    gone.kill();
    let settings = [&settings[..], &[("LLAMATOWER_CLOUD_URL", &*address)]].concat();
    let (code, report) = examined(&[], &settings).await;
    assert_eq!(code, Some(1), "{report:#}");
    let unreachable = finding(&report, "cloud_unreachable");
    assert!(
        unreachable["found"].to_string().contains("refused"),
        "{unreachable}"
    );
}

#[tokio::test]
async fn models_that_the_cloud_answers_are_not_missing() {
    let (sim, cloud) = (tiny().await, Cloud::start().await);
    let url = sim.url();
    let [address, authority, _, key] = cloud.settings();
    let settings = |when: &'static str| {
        [
            address,
            authority,
            ("LLAMATOWER_CLOUD_MODELS", "large=openai/gpt-oss-20b"),
            key,
            ("OLLAMA_URL", &*url),
            ("LLAMATOWER_ALIASES", "chat=other|large"),
            ("DEFAULT_OLLAMA_MODEL", "large"),
            ("LLAMATOWER_CLOUD_WHEN", when),
            ANONYMOUS,
        ]
    };
    let (code, report) = examined(&[], &settings("missing")).await;
    assert_eq!(code, Some(0), "{report:#}");
    assert!(!has(&report, "alias_without_model"), "{report:#}");
    assert!(!has(&report, "default_model_missing"), "{report:#}");
    let (code, report) = examined(&[], &settings("down")).await;
    assert_eq!(code, Some(1), "{report:#}");
    assert!(has(&report, "alias_without_model"), "{report:#}");
}

#[tokio::test]
async fn advice_for_an_openai_compatible_server_does_not_name_ollamas_variables() {
    let sim = tiny().await;
    for (url, code) in [
        (format!("openai+{}/v2", sim.url()), "unreachable"),
        (format!("openai+{}/v1", sim.url()), "slots_unseen"),
    ] {
        for slots in ["1", "learn"] {
            let settings = [("OLLAMA_URL", &*url), ("LLAMATOWER_SLOTS", slots)];
            let (_, report) = examined(&[], &settings).await;
            let advice = finding(&report, code)["change"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(!advice.contains("Ollama"), "{advice}");
            assert!(
                !advice.contains("OLLAMA_NUM") && !advice.contains("OLLAMA_HOST"),
                "{advice}"
            );
        }
    }
    let wrong = format!("openai+{}/v2", sim.url());
    let exited = run(&["doctor"], &[("OLLAMA_URL", &wrong)]).await;
    assert!(
        exited.stdout.contains("like openai+http://"),
        "{}",
        exited.stdout
    );
}

#[tokio::test]
async fn an_address_that_lacks_openai_is_told_with_the_right_one() {
    let sim = tiny().await;
    let missing = || FaultKind::Status {
        status: 404,
        body: "{\"detail\":\"Not Found\"}".to_owned(),
    };
    for path in ["/api/version", "/api/tags"] {
        for _ in 0..10 {
            sim.arm(Fault::new(missing()).for_path(path));
        }
    }
    let (code, report) = examined(&[], &[("OLLAMA_URL", &sim.url())]).await;
    assert_eq!(code, Some(1), "{report:#}");
    let found = finding(&report, "openai_compatible");
    let address = format!("openai+{}", sim.url());
    assert!(
        found["change"].as_str().unwrap().ends_with(&address),
        "{found}"
    );
}
