//! Why a request went to its server: what operators see of each choice.

use std::cell::Cell;
use std::time::Duration;

use llamatower_sim::{ModelSpec, SimHandle};
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, sim_with, within_limit};

/// A server whose `tiny` takes a moment to load.
async fn slow_to_load() -> SimHandle {
    let model = ModelSpec::new("tiny").with_slots(2);
    sim_with(model.with_load_time(Duration::from_millis(50))).await
}

/// A gateway that knows that no server has a model in memory.
async fn gateway(sims: &[&SimHandle], settings: &[(&str, &str)]) -> Gateway {
    let gateway = Gateway::start(sims, settings).await;
    within_limit("the models in memory of all servers", async {
        loop {
            let status = gateway.admin_page("/status").await.json();
            let rows = status["backends"].as_array().unwrap();
            if rows.iter().all(|row| row["resident"] == json!([])) {
                return;
            }
        }
    })
    .await;
    gateway
}

/// The last choices, the latest first.
async fn decisions(gateway: &Gateway) -> Vec<Value> {
    let page = gateway.admin_page("/status/decisions").await.json();
    page["decisions"].as_array().unwrap().clone()
}

/// The candidate of this name.
fn candidate<'a>(decision: &'a Value, backend: &str) -> &'a Value {
    let rows = decision["candidates"].as_array().unwrap();
    rows.iter().find(|row| row["backend"] == *backend).unwrap()
}

#[tokio::test]
async fn the_last_choices_show_that_a_server_was_warm() {
    let (one, other) = (slow_to_load().await, slow_to_load().await);
    let gateway = gateway(&[&one, &other], &[]).await;
    assert_eq!(decisions(&gateway).await, [] as [Value; 0]);
    let mut served = Vec::new();
    for _ in 0..2 {
        let answer = gateway.post("/api/chat", &chat()).await;
        served.push(answer.header("x-llamatower-backend").to_owned());
    }
    assert_eq!(served[0], served[1]);
    let warm = &served[0];
    let names = [&one, &other].map(|sim| sim.addr().to_string());
    let cold = names.iter().find(|name| *name != warm).unwrap();

    let rows = decisions(&gateway).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in &rows {
        assert_eq!(
            (&row["model"], &row["backend"], &row["waiting"]),
            (&json!("tiny:latest"), &json!(warm), &json!(1))
        );
        for name in &names {
            let terms = candidate(row, name);
            let sum: f64 = ["load", "wait", "work", "affinity"]
                .map(|term| terms[term].as_f64().unwrap())
                .iter()
                .sum();
            assert!((sum - terms["total"].as_f64().unwrap()).abs() < 1e-5);
            assert_eq!(
                (&terms["state"], &terms["was_tried"], &terms["is_open"]),
                (&json!("healthy"), &json!(false), &json!(true))
            );
        }
    }
    let seconds = |row: &Value, term: &str| row[term].as_f64().unwrap();
    let [second, first] = [&rows[0], &rows[1]];
    assert!(seconds(first, "age") > seconds(second, "age"));
    assert!(seconds(second, "waited") < 1.0, "{second}");
    for name in &names {
        assert_eq!(candidate(first, name)["loads"], true, "{first}");
        assert!(seconds(candidate(first, name), "load") > 0.0);
    }
    let (warm, cold) = (candidate(second, warm), candidate(second, cold));
    assert_eq!(
        (&warm["loads"], &cold["loads"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(seconds(warm, "load"), 0.0);
    assert!(seconds(cold, "total") > seconds(warm, "total"), "{second}");
}

#[tokio::test]
async fn the_debug_log_has_the_terms_of_each_choice() {
    let (one, other) = (slow_to_load().await, slow_to_load().await);
    let debug = [("LLAMATOWER_LOG", "info,llamatower::ollama::fleet=debug")];
    let gateway = gateway(&[&one, &other], &debug).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    let is_choice = |line: &Value| line["message"] == "a backend was chosen";
    let line = gateway.logged("the choice", is_choice).await;
    assert_eq!(line["backend"], answer.header("x-llamatower-backend"));
    assert_eq!(line["model"], "tiny:latest");
    assert!(line["load"].as_f64().unwrap() > 0.0, "{line}");
    for sim in [&one, &other] {
        let candidate = format!("{} is healthy, open, loads: load 0.5", sim.addr());
        assert!(
            line["candidates"].as_str().unwrap().contains(&candidate),
            "{line}"
        );
    }
}

#[tokio::test]
async fn the_status_has_what_was_learned_of_a_model() {
    let model = ModelSpec::new("tiny")
        .with_load_time(Duration::from_millis(50))
        .with_prompt_rate(1000.0)
        .with_pace(Duration::from_millis(1));
    let sim = sim_with(model).await;
    let gateway = gateway(&[&sim], &[]).await;
    let row = async || {
        let status = gateway.admin_page("/status").await.json();
        status["backends"][0].clone()
    };
    let before = row().await;
    assert_eq!(before["models"], json!([]));
    let nothing = json!({"held": {"models": 0, "bytes": 0}, "did_not_fit": null});
    assert_eq!(before["memory"], nothing);

    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    let after = within_limit("the end of the request and the next list", async {
        loop {
            let row = row().await;
            if row["memory"]["held"]["models"] == 1 && row["models"][0]["in_flight"] == 0 {
                return row;
            }
        }
    })
    .await;
    assert!(after["memory"]["held"]["bytes"].as_u64().unwrap() > 0);
    let models = after["models"].as_array().unwrap();
    assert_eq!(models.len(), 1);
    let expected = json!({
        "model": "tiny:latest",
        "residency": "resident",
        "in_flight": 0,
        "limit": 2,
        "slots": 1,
        "slots_source": "searching",
        "rests_for": null,
    });
    let row = &models[0];
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(row[name], *value, "{name} in {row}");
    }
    let measured = |name: &str| row[name].as_f64().unwrap();
    assert!(measured("load_seconds") >= 0.05, "{row}");
    assert!(measured("prompt_tokens_per_second") > 0.0, "{row}");
    assert!(
        (1.0..=1100.0).contains(&measured("output_tokens_per_second")),
        "{row}"
    );
}

#[tokio::test]
async fn the_log_says_once_how_many_slots_were_learned() {
    let model = ModelSpec::new("tiny").with_pace(Duration::from_millis(10));
    let sim = sim_with(model.with_slots(1)).await;
    let gateway = gateway(&[&sim], &[]).await;
    // The load takes no time, but no second request is sent until it is over.
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    let is_learned = |line: &Value| line["message"] == "the slots of a model were learned";
    assert!(!gateway.has_logged(is_learned));
    let both = async || {
        let request = chat();
        let (one, other) = tokio::join!(
            gateway.post("/api/chat", &request),
            gateway.post("/api/chat", &request)
        );
        assert_eq!((one.status, other.status), (200, 200));
    };
    both().await;
    let line = gateway.logged("the slots", is_learned).await;
    assert_eq!(
        (&line["backend"], &line["model"], &line["slots"]),
        (
            &json!(sim.addr().to_string()),
            &json!("tiny:latest"),
            &json!(1)
        )
    );
    let status = gateway.admin_page("/status").await.json();
    let row = &status["backends"][0]["models"][0];
    assert_eq!(
        (&row["limit"], &row["slots"], &row["slots_source"]),
        (&json!(1), &json!(1), &json!("learned"))
    );
    both().await;
    let lines = Cell::new(0);
    gateway.has_logged(|line| {
        lines.set(lines.get() + u8::from(is_learned(line)));
        false
    });
    assert_eq!(lines.get(), 1);
}
