//! Which model of an alias a client gets, and which models it sees and may use.

use std::time::Duration;

use llamatower_sim::{ModelSpec, Sim};
use serde_json::json;

use super::aliases::{ALIASES, chat_with, two_models};
use crate::harness::{Gateway, keys, load, send, with};

#[tokio::test]
async fn weights_divide_the_clients_and_each_gateway_chooses_the_same_model_for_one() {
    let names: Vec<String> = (0..60).map(|number| format!("user{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let sim = two_models().await;
    let keys = keys(&names);
    let settings = [
        (ALIASES, "mix=tiny*9|small*1"),
        ("LLAMATOWER_API_KEYS", &*keys),
    ];
    let gateways = [
        Gateway::start_up(&[&sim], &settings).await,
        Gateway::start_up(&[&sim], &settings).await,
    ];
    let mut small = 0;
    for name in names {
        let mut served = Vec::new();
        for gateway in &gateways {
            let request = gateway.post_request("/api/chat", &chat_with("mix"));
            let answer = send(request.bearer_auth(format!("{name}-secret"))).await;
            served.push(answer.header("x-llamatower-model").to_owned());
        }
        assert_eq!(served[0], served[1], "{name}");
        small += usize::from(served[0] == "small");
    }
    // The names are fixed, so the number is too: about one of ten.
    assert!((2..=12).contains(&small), "{small}");
}

#[tokio::test]
async fn a_model_without_a_capability_that_the_request_needs_is_left_out() {
    let sim = Sim::builder()
        .model(ModelSpec::new("text").with_capabilities(["completion"]))
        .model(ModelSpec::new("sees").with_capabilities(["completion", "vision"]))
        .model(ModelSpec::new("thinks").with_capabilities(["completion", "thinking", "tools"]))
        .start()
        .await
        .unwrap();
    let settings = [(ALIASES, "any=text|sees|thinks,blind=text|thinks")];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let images = json!({"messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]});
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let thinking = json!({"think": true});
    for (more, model) in [
        (json!({}), "text"),
        (images.clone(), "sees"),
        (tools, "thinks"),
        (thinking, "thinks"),
    ] {
        let answer = gateway
            .post("/api/chat", &with(chat_with("any"), more.clone()))
            .await;
        assert_eq!(
            answer.header("x-llamatower-model"),
            model,
            "{more}: {}",
            answer.text
        );
    }
    let answer = gateway
        .post("/api/chat", &with(chat_with("blind"), images))
        .await;
    assert_eq!(answer.status, 400);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("no model of 'blind'") && error.contains("vision"),
        "{error}"
    );
}

#[tokio::test]
async fn a_set_prefers_what_is_in_memory_or_answers_soonest() {
    let slow = |name| ModelSpec::new(name).with_load_time(Duration::from_millis(50));
    let sim = Sim::builder()
        .model(slow("tiny"))
        .model(slow("small"))
        .start()
        .await
        .unwrap();
    let load_small = json!({"model": "small"});
    let settings = [(
        ALIASES,
        "warm=resident(tiny|small), soon=cheapest(tiny|small)",
    )];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let served = async |alias: &str| {
        let answer = gateway.post("/api/chat", &chat_with(alias)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.header("x-llamatower-model").to_owned()
    };
    let loaded = gateway.post("/api/generate", &load_small).await;
    assert_eq!(loaded.status, 200);
    assert_eq!(served("warm").await, "small");
    assert_eq!(served("soon").await, "small");

    let other = Sim::builder().model(slow("tiny")).start().await.unwrap();
    load(&other).await;
    let gateway = Gateway::start_up(&[&other], &settings).await;
    let answer = gateway.post("/api/chat", &chat_with("warm")).await;
    assert_eq!(answer.header("x-llamatower-model"), "tiny");
}

#[tokio::test]
async fn aliases_are_listed_only_if_a_setting_says_so() {
    let sim = two_models().await;
    let aliases = (ALIASES, "gpt-4o-mini=absent|tiny,none=absent");
    for (setting, is_listed) in [("false", false), ("true", true)] {
        let gateway =
            Gateway::start_up(&[&sim], &[aliases, ("LLAMATOWER_LIST_ALIASES", setting)]).await;
        let tags = send(gateway.get("/api/tags")).await.json();
        let tags = tags["models"].as_array().unwrap().clone();
        let alias = tags.iter().find(|row| row["name"] == "gpt-4o-mini:latest");
        assert_eq!(alias.is_some(), is_listed);
        assert_eq!(tags.len(), 2 + usize::from(is_listed));
        if let Some(alias) = alias {
            let tiny = tags
                .iter()
                .find(|row| row["name"] == "tiny:latest")
                .unwrap();
            assert_eq!(alias["model"], "gpt-4o-mini:latest");
            assert_eq!(alias["digest"], tiny["digest"]);
        }
        let models = send(gateway.get("/v1/models")).await.json();
        let models = models["data"].as_array().unwrap().clone();
        assert_eq!(
            models.iter().any(|row| row["id"] == "gpt-4o-mini"),
            is_listed
        );

        let one = send(gateway.get("/v1/models/gpt-4o-mini")).await;
        assert_eq!(one.json()["id"], "gpt-4o-mini", "{}", one.text);
        let show = gateway
            .post("/api/show", &json!({"name": "gpt-4o-mini"}))
            .await;
        let direct = gateway.post("/api/show", &json!({"name": "tiny"})).await;
        assert_eq!((show.status, &show.text), (200, &direct.text));
        assert_eq!(show.header("x-llamatower-model"), "tiny");
    }
}

#[tokio::test]
async fn a_key_uses_and_sees_only_its_models() {
    let sim = two_models().await;
    let keys = keys(&["ada", "bob"]);
    let settings = [
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_KEY_MODELS", "ada=gpt*|small"),
        ("LLAMATOWER_LIST_ALIASES", "true"),
        (ALIASES, "gpt-4o=tiny, other=tiny"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let ask = async |key: &str, path: &str, model: &str| {
        let request = gateway.post_request(path, &chat_with(model));
        send(request.bearer_auth(format!("{key}-secret"))).await
    };
    for (key, model, status) in [
        ("ada", "gpt-4o", 200),
        ("ada", "small:latest", 200),
        ("ada", "tiny", 403),
        ("ada", "other", 403),
        ("ada", "absent", 403),
        ("bob", "tiny", 200),
        ("bob", "other", 200),
    ] {
        let answer = ask(key, "/api/chat", model).await;
        assert_eq!(answer.status, status, "{key} {model}: {}", answer.text);
    }
    let text = "this API key may not use the model 'tiny'";
    for (path, place) in [
        ("/api/show", "/error"),
        ("/api/embed", "/error"),
        ("/v1/chat/completions", "/error/message"),
        ("/v1/messages", "/error/message"),
    ] {
        let answer = ask("ada", path, "tiny").await;
        assert_eq!(answer.status, 403, "{path}");
        assert_eq!(answer.json().pointer(place).unwrap(), text, "{path}");
    }
    let one = gateway.get("/v1/models/tiny").bearer_auth("ada-secret");
    assert_eq!(send(one).await.status, 403);
    let names = async |key: &str, path: &str, list: &str, name: &str| {
        let request = gateway.get(path).bearer_auth(format!("{key}-secret"));
        let page = send(request).await.json();
        let rows = page[list].as_array().unwrap().iter();
        let mut names: Vec<_> = rows
            .map(|row| row[name].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(
        names("ada", "/api/tags", "models", "name").await,
        "gpt-4o:latest small:latest"
    );
    assert_eq!(
        names("ada", "/v1/models", "data", "id").await,
        "gpt-4o small:latest"
    );
    assert_eq!(
        names("ada", "/api/ps", "models", "name").await,
        "small:latest"
    );
    assert_eq!(
        names("bob", "/api/tags", "models", "name").await,
        "gpt-4o:latest other:latest small:latest tiny:latest"
    );
}
