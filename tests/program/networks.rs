//! Names for clients by their network.

use llamatower_layers::api_key::generate_key;
use serde_json::Value;

use crate::harness::{Answer, Gateway, chat, run, send, tiny};

const NETWORKS: (&str, &str) = (
    "LLAMATOWER_NETWORK_IDENTITIES",
    "10.1.0.0/16=lab, 10.1.2.3=buildbot, fd00:1::/32=lab",
);
const PROXY: (&str, &str) = ("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.1");
const REPLACE: (&str, &str) = ("LLAMATOWER_NETWORKS_REPLACE_KEYS", "true");

async fn ask(gateway: &Gateway, address: &str, key: Option<&str>) -> Answer {
    let request = gateway.post_request("/api/chat", &chat());
    let request = request.header("x-forwarded-for", address);
    send(match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    })
    .await
}

async fn identity(gateway: &Gateway, answer: &Answer) -> Value {
    let id = answer.header("x-request-id").to_owned();
    let line = gateway
        .logged("the request", |line| line["request_id"] == *id)
        .await;
    line["identity"].clone()
}

#[tokio::test]
async fn a_network_names_its_clients_for_limits_and_models() {
    let sim = tiny().await;
    let settings = [
        NETWORKS,
        PROXY,
        ("LLAMATOWER_KEY_LIMITS", "lab:rate=2/h"),
        ("LLAMATOWER_KEY_MODELS", "buildbot=other"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let first = ask(&gateway, "10.1.0.1", None).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(identity(&gateway, &first).await, "lab");
    assert_eq!(ask(&gateway, "fd00:1::9", None).await.status, 200);
    let third = ask(&gateway, "10.1.0.2", None).await;
    assert_eq!(third.status, 429, "the machines are one client");
    let robot = ask(&gateway, "10.1.2.3", None).await;
    assert_eq!(
        robot.status, 403,
        "it may use another model: {}",
        robot.text
    );
    let stranger = ask(&gateway, "10.2.0.1", None).await;
    assert_eq!(stranger.status, 200);
    assert_eq!(identity(&gateway, &stranger).await, Value::Null);
}

#[tokio::test]
async fn a_network_does_not_replace_a_key_unless_the_operator_says_so() {
    let sim = tiny().await;
    let (key, line) = generate_key("ada").unwrap();
    let keys = ("LLAMATOWER_API_KEYS", &*line);
    let gateway = Gateway::start(&[&sim], &[NETWORKS, PROXY, keys]).await;
    assert_eq!(ask(&gateway, "10.1.0.1", None).await.status, 401);
    let answer = ask(&gateway, "10.1.0.1", Some(&key)).await;
    assert_eq!(identity(&gateway, &answer).await, "ada");

    let gateway = Gateway::start(&[&sim], &[NETWORKS, PROXY, keys, REPLACE]).await;
    for key in [None, Some("ollama")] {
        let answer = ask(&gateway, "10.1.0.1", key).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(identity(&gateway, &answer).await, "lab");
    }
    let answer = ask(&gateway, "10.1.0.1", Some(&key)).await;
    assert_eq!(identity(&gateway, &answer).await, "ada");
    assert_eq!(ask(&gateway, "10.2.0.1", None).await.status, 401);
    let pull = gateway.post_request("/api/pull", &serde_json::json!({"model": "new"}));
    let pull = send(pull.header("x-forwarded-for", "10.1.0.1")).await;
    assert_eq!(pull.status, 403, "a network never manages models");
    // A page whose name resolves to this machine would otherwise have the rights of the network.
    let rebound = gateway.post_request("/api/chat", &chat());
    let rebound = rebound.header("x-forwarded-for", "10.1.0.1");
    assert_eq!(
        send(rebound.header("host", "evil.example")).await.status,
        403
    );
}

#[tokio::test]
async fn check_warns_of_networks_that_are_not_private_or_have_no_effect() {
    let (_, line) = generate_key("ada").unwrap();
    let public = ("LLAMATOWER_NETWORK_IDENTITIES", "203.0.113.0/24=office");
    let keys = ("LLAMATOWER_API_KEYS", &*line);
    for (settings, named) in [
        (
            vec![public],
            "203.0.113.0/24 (office) is not a private network",
        ),
        (
            vec![NETWORKS, keys],
            "LLAMATOWER_NETWORKS_REPLACE_KEYS=true",
        ),
        (vec![REPLACE], "LLAMATOWER_NETWORK_IDENTITIES"),
    ] {
        let checked = run(&["check"], &settings).await;
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        assert!(
            checked.stderr.contains(named),
            "{named}: {}",
            checked.stderr
        );
    }
    let sound = run(&["check"], &[NETWORKS, keys, REPLACE]).await;
    assert!(!sound.stderr.contains("NETWORK"), "{}", sound.stderr);
    for wrong in [
        "10.1.0.0/33=lab",
        "10.1.0.0/16",
        "10.1.0.0/16=a b",
        "10.1.0.0/16=a,10.1.9.9/16=b",
    ] {
        let checked = run(&["check"], &[("LLAMATOWER_NETWORK_IDENTITIES", wrong)]).await;
        assert_eq!(checked.code, Some(2), "{wrong}");
        assert!(checked.stderr.contains(NETWORKS.0), "{}", checked.stderr);
    }
}
