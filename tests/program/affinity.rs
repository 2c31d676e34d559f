//! Requests go to the server that has the beginning of their prompt in its cache.

use std::collections::HashMap;

use std::time::Duration;

use futures_util::future::join_all;
use llamatower_sim::{ModelSpec, Sim, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Gateway, within_limit};

/// A server with a prefix cache, slow prompts, and the model in memory.
async fn server(slots: usize) -> SimHandle {
    let model = ModelSpec::new("tiny")
        .with_slots(slots)
        .with_prompt_rate(10_000.0)
        .with_pace(Duration::from_millis(2));
    let builder = Sim::builder().model(model).prefix_cache(1_000_000);
    let sim = builder.start().await.unwrap();
    let load = json!({"model": "tiny"});
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let loading = client.post(format!("{}/api/generate", sim.url()));
    assert!(
        loading
            .json(&load)
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    sim
}

/// A gateway in front of two servers that knows that both have the model in memory.
async fn gateway(sims: [&SimHandle; 2], settings: &[(&str, &str)]) -> Gateway {
    let gateway = Gateway::start(&sims, settings).await;
    within_limit("two servers with the model in memory", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            let rows = status["backends"].as_array().unwrap().iter();
            if rows.filter(|row| row["resident"][0].is_object()).count() == 2 {
                return;
            }
        }
    })
    .await;
    gateway
}

/// A message of 8 KiB, about 2,000 tokens.
fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text.repeat((8 << 10) / text.len())})
}

/// The server that has answered a chat.
async fn ask(gateway: &Gateway, messages: &[Value]) -> String {
    let chat = json!({"model": "tiny", "messages": messages});
    let answer = gateway.post("/api/chat", &chat).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.header("x-llamatower-backend").to_owned()
}

#[tokio::test]
async fn a_conversation_that_grows_stays_at_its_server() {
    let (one, other) = (server(4).await, server(4).await);
    let gateway = gateway([&one, &other], &[]).await;
    let mut histories = [
        vec![message("user", "the first ")],
        vec![message("user", "the second ")],
    ];
    let [a, b] = &histories;
    let (a, b) = tokio::join!(ask(&gateway, a), ask(&gateway, b));
    assert_ne!(a, b, "each at an idle server");
    let homes = [a, b];
    for whose in [0, 1, 1, 0, 0, 0, 1, 1] {
        let history = &mut histories[whose];
        let turn = format!("turn {} ", history.len());
        history.extend([message("assistant", &turn), message("user", &turn)]);
        assert_eq!(ask(&gateway, history).await, homes[whose], "{turn}");
    }
}

#[tokio::test]
async fn a_prefix_that_all_requests_share_does_not_overload_its_server() {
    let (one, other) = (server(1).await, server(1).await);
    let gateway = gateway([&one, &other], &[("LLAMATOWER_SLOTS", "1")]).await;
    let system = message("system", "the rules of the house ");
    let with = |n: usize| {
        let question = json!({"role": "user", "content": format!("question {n}")});
        [system.clone(), question]
    };
    let home = ask(&gateway, &with(0)).await;
    for n in 1..4 {
        assert_eq!(ask(&gateway, &with(n)).await, home, "while it is idle");
    }
    let prompts: Vec<_> = (4..20).map(with).collect();
    let servers = join_all(prompts.iter().map(|prompt| ask(&gateway, prompt))).await;
    let mut served: HashMap<_, usize> = HashMap::new();
    for server in servers {
        *served.entry(server).or_default() += 1;
    }
    assert!(
        served.len() == 2 && served.values().all(|n| *n >= 4),
        "{served:?}"
    );
}
