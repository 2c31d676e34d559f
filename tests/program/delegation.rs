//! A chat server with one key for many users, whom it names in a header.

use serde_json::Value;

use crate::harness::{
    Answer, Gateway, WEBUI_AND_BOB, chat, long_stream, run, send, tiny, within_limit,
};

const WEBUI: &str = "webui-secret";
const BOB: &str = "bob-secret";
const DELEGATING: (&str, &str) = ("LLAMATOWER_DELEGATING_KEYS", "webui");
const EMAIL: &str = "x-openwebui-user-email";

fn chat_of(gateway: &Gateway, key: &str, user: Option<&str>) -> reqwest::RequestBuilder {
    let request = gateway.post_request("/api/chat", &chat());
    let request = request.bearer_auth(key);
    match user {
        Some(user) => request.header(EMAIL, user),
        None => request,
    }
}

async fn ask(gateway: &Gateway, key: &str, user: Option<&str>) -> Answer {
    send(chat_of(gateway, key, user)).await
}

/// The identity in the log line of the request with this id.
async fn identity(gateway: &Gateway, answer: &Answer) -> Value {
    let id = answer.header("x-request-id").to_owned();
    let line = gateway
        .logged("the request", |line| line["request_id"] == *id)
        .await;
    line["identity"].clone()
}

#[tokio::test]
async fn a_delegating_key_names_its_user_and_no_other_client_can() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[WEBUI_AND_BOB, DELEGATING]).await;
    for (key, user, expected) in [
        (WEBUI, Some("ada@example.org"), "webui/ada@example.org"),
        (WEBUI, None, "webui"),
        (BOB, Some("ada@example.org"), "bob"),
    ] {
        let answer = ask(&gateway, key, user).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(identity(&gateway, &answer).await, expected);
    }
    for seen in sim.requests() {
        assert!(!seen.headers().contains_key(EMAIL), "{:?}", seen.headers());
    }
    let overview = gateway.admin_page("/status/overview").await.json();
    let clients = overview["clients"].as_array().unwrap();
    for client in ["user:webui/ada@example.org", "key:webui", "key:bob"] {
        assert!(
            clients.iter().any(|row| row["client"] == client),
            "{client}: {clients:?}"
        );
    }
    let usage = gateway.admin_page("/status/usage?by=key").await.json();
    let usage = usage["rows"].as_array().unwrap();
    let of_ada = usage
        .iter()
        .find(|row| row["key"] == "webui/ada@example.org");
    assert_eq!(of_ada.unwrap()["requests"], 1, "{usage:?}");
    let label = "llamatower_identity=\"webui/ada@example.org\"";
    let count = gateway
        .sample("llamatower_key_requests_total", &[label])
        .await;
    assert_eq!(count, Some(1.0));
}

#[tokio::test]
async fn a_value_that_names_nobody_is_refused_before_a_server_is_asked() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[WEBUI_AND_BOB, DELEGATING]).await;
    let long = "x".repeat(255);
    for value in ["a%0ab", "a%E2%80%AEb", &long] {
        let refusal = ask(&gateway, WEBUI, Some(value)).await;
        assert_eq!(refusal.status, 400, "{value}");
        assert!(refusal.text.contains(EMAIL), "{}", refusal.text);
        let other = ask(&gateway, BOB, Some(value)).await;
        assert_eq!(other.status, 200, "it is ignored: {}", other.text);
    }
    let anonymous = send(
        gateway
            .post_request("/api/chat", &chat())
            .header(EMAIL, "a"),
    )
    .await;
    assert_eq!(anonymous.status, 401);
}

#[tokio::test]
async fn each_user_has_a_limit_and_the_key_limits_their_sum() {
    let sim = tiny().await;
    for (user, key, name) in [
        ("LLAMATOWER_USER_RATE_LIMIT", "webui:rate=5/h", "2/h"),
        // A request of 30 tokens or more; the limits are met after two and after five.
        (
            "LLAMATOWER_USER_TOKEN_LIMIT",
            "webui:tokens=101/day",
            "31/day",
        ),
    ] {
        let settings = [
            WEBUI_AND_BOB,
            DELEGATING,
            (user, name),
            ("LLAMATOWER_KEY_LIMITS", key),
        ];
        let gateway = Gateway::start_up(&[&sim], &settings).await;
        let statuses = async |user: &str| {
            let mut statuses = Vec::new();
            for _ in 0..5 {
                statuses.push(ask(&gateway, WEBUI, Some(user)).await.status);
            }
            statuses.retain(|status| *status == 200);
            statuses.len()
        };
        let (ada, bea) = (statuses("ada").await, statuses("bea").await);
        assert!((1..5).contains(&ada) && ada == bea, "{user}: {ada} {bea}");
        let cleo = statuses("cleo").await;
        let dora = statuses("dora").await;
        assert!(cleo + dora < 2 * ada, "{user}: the sum is limited");
        assert_eq!(ask(&gateway, WEBUI, None).await.status, 429, "{user}");
        assert_eq!(ask(&gateway, BOB, None).await.status, 200, "{user}");
    }
}

#[tokio::test]
async fn users_of_one_key_share_the_slots_fairly() {
    let sim = long_stream().await;
    let settings = [WEBUI_AND_BOB, DELEGATING, ("LLAMATOWER_SLOTS", "1")];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let waiting = async |expected: u64| {
        within_limit("the expected queue", async {
            loop {
                let status = gateway.admin_page("/status").await.json();
                if status["queue"][0]["waiting"] == expected {
                    break;
                }
            }
        })
        .await;
    };
    let held = chat_of(&gateway, WEBUI, Some("ada")).send().await.unwrap();
    let second_of_ada = tokio::spawn(chat_of(&gateway, WEBUI, Some("ada")).send());
    waiting(1).await;
    let third_of_ada = tokio::spawn(chat_of(&gateway, WEBUI, Some("ada")).send());
    waiting(2).await;
    let first_of_bea = tokio::spawn(chat_of(&gateway, WEBUI, Some("bea")).send());
    waiting(3).await;
    drop(held);
    let answered = within_limit("an answer", first_of_bea).await.unwrap();
    assert_eq!(answered.unwrap().status(), 200);
    assert!(!third_of_ada.is_finished());
    drop(second_of_ada);
}

#[tokio::test]
async fn keys_that_may_delegate_can_be_changed_by_a_reload() {
    let sim = tiny().await;
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("llamatower.toml");
    let write = |delegating: &str| {
        let text = format!(
            "[keys]\napi = [\"{}\"]\ndelegating = [{delegating}]\n",
            WEBUI_AND_BOB.1.replace(',', "\",\"")
        );
        std::fs::write(&file, text).unwrap();
    };
    write("\"bob\"");
    let config = ("LLAMATOWER_CONFIG", file.to_str().unwrap());
    let gateway = Gateway::start(&[&sim], &[config]).await;
    let answer = ask(&gateway, WEBUI, Some("ada")).await;
    assert_eq!(identity(&gateway, &answer).await, "webui");
    write("\"webui\"");
    gateway.signal("HUP").await;
    gateway
        .logged("the reload", |line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains("reload"))
        })
        .await;
    let answer = ask(&gateway, WEBUI, Some("ada")).await;
    assert_eq!(identity(&gateway, &answer).await, "webui/ada");
}

#[tokio::test]
async fn check_names_what_has_no_effect() {
    for (settings, named) in [
        (vec![DELEGATING], "no key in"),
        (
            vec![("LLAMATOWER_USER_RATE_LIMIT", "5/m")],
            "LLAMATOWER_DELEGATING_KEYS",
        ),
    ] {
        let checked = run(&["check"], &settings).await;
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        assert!(checked.stderr.contains(named), "{}", checked.stderr);
    }
    let wrong = ("LLAMATOWER_USER_HEADERS", "Authorization");
    let checked = run(&["check"], &[wrong]).await;
    assert_eq!(checked.code, Some(2));
    assert!(checked.stderr.contains(wrong.0), "{}", checked.stderr);
}
