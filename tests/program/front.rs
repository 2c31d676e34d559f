//! Proxies between clients and the gateway: their headers, host names and addresses.

use llamatower_layers::api_key::generate_key;
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, send, tiny};

/// The log line of a request that the edge refused.
async fn refused(gateway: &Gateway, reason: &str) -> Value {
    let is_it = |line: &Value| line["message"] == "request" && line["error"] == reason;
    gateway.logged("a refusal", is_it).await
}

#[tokio::test]
async fn a_foreign_host_is_refused_on_loopback_with_an_error_a_log_line_and_a_count() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let answer = gateway
        .post_request("/api/chat", &chat())
        .header("host", "llm.example");
    let answer = send(answer).await;
    assert_eq!(answer.status, 403);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("LLAMATOWER_ALLOWED_HOSTS"), "{error}");
    let line = refused(&gateway, "foreign_host").await;
    let seen = ["status", "method", "path", "client", "host"].map(|field| line[field].clone());
    assert_eq!(
        json!(seen),
        json!([403, "POST", "/api/chat", "127.0.0.1", "llm.example"])
    );
    let foreign = gateway
        .get("/v1/models")
        .header("origin", "https://evil.example");
    assert_eq!(send(foreign).await.status, 403);
    let line = refused(&gateway, "foreign_origin").await;
    assert_eq!(line["origin"], "https://evil.example");
    let mut connection = gateway.connect().await;
    connection.send("nonsense\r\n\r\n").await;
    assert_eq!(connection.head().await.status, 400);
    let line = refused(&gateway, "malformed_head").await;
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(gateway.metric("llamatower_refusals_total").await, 3.0);
}

#[tokio::test]
async fn a_refusal_of_the_admin_listener_advises_nothing_that_cannot_work() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[("OLLAMA_ORIGINS", "https://evil.example")]).await;
    let foreign = gateway.admin_page_under("llm.example", "/status").await;
    assert_eq!(foreign.status, 403, "{}", foreign.text);
    assert!(
        foreign.text.contains("LLAMATOWER_ALLOWED_HOSTS"),
        "{}",
        foreign.text
    );
    assert!(
        !foreign.text.contains("LLAMATOWER_API_KEYS"),
        "{}",
        foreign.text
    );
    let page = reqwest::Client::new().get(format!("{}/status", gateway.admin_url()));
    let page = send(page.header("origin", "https://evil.example")).await;
    assert_eq!(page.status, 403, "{}", page.text);
    assert!(page.text.contains("no setting allows it"), "{}", page.text);
}

#[tokio::test]
async fn with_required_keys_any_host_is_accepted_except_on_the_admin_listener() {
    let sim = tiny().await;
    let (key, line) = generate_key("ada").unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_API_KEYS", &line)]).await;
    let under_name = || {
        gateway
            .post_request("/api/chat", &chat())
            .header("host", "llm.example")
    };
    assert_eq!(send(under_name()).await.status, 401);
    let line = refused(&gateway, "missing_key").await;
    assert_eq!(
        (&line["status"], &line["client"]),
        (&json!(401), &json!("127.0.0.1"))
    );
    assert_eq!(send(under_name().bearer_auth(&key)).await.status, 200);
    let metrics = gateway.admin_page_under("evil.example", "/metrics").await;
    assert_eq!(metrics.status, 403);
}

#[tokio::test]
async fn with_only_an_administrators_key_the_host_rule_applies() {
    let sim = tiny().await;
    let (_, line) = generate_key("root").unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_ADMIN_KEYS", &line)]).await;
    let chat = gateway
        .post_request("/api/chat", &chat())
        .header("host", "evil.example");
    assert_eq!(send(chat).await.status, 403);
}

#[tokio::test]
async fn an_allowed_host_is_accepted() {
    let sim = tiny().await;
    let allowed = [("LLAMATOWER_ALLOWED_HOSTS", "llm.example, *.corp.example")];
    let gateway = Gateway::start(&[&sim], &allowed).await;
    for (host, status) in [
        ("llm.example", 200),
        ("a.corp.example:443", 200),
        ("evil.example", 403),
    ] {
        let request = gateway.get("/api/tags").header("host", host);
        assert_eq!(send(request).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn limits_and_log_lines_use_the_clients_address_behind_a_trusted_proxy() {
    let sim = tiny().await;
    let settings = [
        ("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8"),
        ("LLAMATOWER_KEY_RATE_LIMIT", "1/h"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let from = |list: &str| {
        let request = gateway.post_request("/api/chat", &chat());
        send(request.header("x-forwarded-for", list))
    };
    assert_eq!(from("198.51.100.1").await.status, 200);
    assert_eq!(
        from("203.0.113.7, 198.51.100.1, 10.1.1.1").await.status,
        429
    );
    assert_eq!(from("198.51.100.2").await.status, 200);
    for client in ["198.51.100.1", "198.51.100.2"] {
        let is_it = |line: &Value| line["message"] == "request" && line["client"] == client;
        assert_eq!(gateway.logged(client, is_it).await["route"], "/api/chat");
    }
    let line = refused(&gateway, "rate_limited").await;
    assert_eq!(line["client"], "198.51.100.1");
    for seen in sim.requests() {
        assert!(!seen.headers().contains_key("x-forwarded-for"));
    }
}

#[tokio::test]
async fn for_other_peers_the_address_of_the_connection_counts() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_KEY_RATE_LIMIT", "1/h")]).await;
    for (list, status) in [("198.51.100.1", 200), ("198.51.100.2", 429)] {
        let request = gateway
            .post_request("/api/chat", &chat())
            .header("x-forwarded-for", list);
        assert_eq!(send(request).await.status, status, "{list}");
    }
    assert_eq!(
        gateway.access_line("/api/chat").await["client"],
        "127.0.0.1"
    );
}

#[tokio::test]
async fn a_websocket_handshake_gets_426_and_the_connection_stays_open() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let mut connection = gateway.connect().await;
    connection
        .send(
            "GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let head = connection.head().await;
    assert_eq!((head.status, head.get("upgrade")), (426, "HTTP/1.1"));
    assert_eq!(head.get("connection"), "Upgrade");
    assert!(connection.rest().await.0.contains("426 upgrade required"));
    connection
        .post("/v1/responses", &json!({"model": "tiny", "input": "hi"}))
        .await;
    assert_eq!(connection.head().await.status, 200);
}

#[tokio::test]
async fn a_model_with_a_slash_in_its_name_can_be_requested() {
    use llamatower_sim::{ModelSpec, Sim};
    let sim = Sim::builder()
        .model(ModelSpec::new("tiny"))
        .model(ModelSpec::new("aaa/llava:13b"))
        .start()
        .await
        .unwrap();
    let gateway = Gateway::start(&[&sim], &[]).await;
    let listed = send(gateway.get("/v1/models")).await.json();
    let row = |id: &str| {
        let rows = listed["data"].as_array().unwrap().iter();
        rows.clone().find(|row| row["id"] == id).cloned()
    };
    for name in [
        "aaa/llava:13b",
        "aaa%2Fllava%3A13b",
        "AAA/llava:13b",
        "aaa%2fllava:13b",
    ] {
        let found = send(gateway.get(&format!("/v1/models/{name}"))).await;
        assert_eq!(found.status, 200, "{name}: {}", found.text);
        assert_eq!(Some(found.json()), row("aaa/llava:13b"), "{name}");
    }
    let encoded = send(gateway.get("/v1/models/tiny%3Alatest")).await;
    assert_eq!(
        (encoded.status, &encoded.json()["id"]),
        (200, &json!("tiny:latest"))
    );
    for name in ["aaa/absent", "aaa%2Fabsent", "hf.co/aaa/absent:x"] {
        let missing = send(gateway.get(&format!("/v1/models/{name}"))).await;
        assert_eq!(missing.status, 404, "{name}");
        let told = missing.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            told.starts_with("model '") && told.ends_with("' not found"),
            "{told}"
        );
    }
    let double = send(gateway.get("/v1/models/tiny%253Alatest")).await;
    assert_eq!((double.status, &*double.text), (404, "404 page not found"));
}

#[tokio::test]
async fn an_empty_error_of_a_proxy_before_a_server_gets_a_text() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let empty = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = socket.write_all(empty.as_bytes()).await;
        }
    });
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[("OLLAMA_URL", &address)]).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 403);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("403 Forbidden"), "{error}");
}

#[tokio::test]
async fn paths_below_openai_v1_are_those_of_v1_with_the_same_rules() {
    let sim = tiny().await;
    let (key, line) = generate_key("ada").unwrap();
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_API_KEYS", &line)]).await;
    let ask = |path: &'static str, key: &str| {
        let request = gateway.post_request(path, &chat());
        send(request.header("authorization", format!("Bearer {key}")))
    };
    let refused = ask("/openai/v1/chat/completions", "wrong").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    let answer = ask("/openai/v1/chat/completions", &key).await;
    assert_eq!(answer.json()["object"], "chat.completion", "{answer:?}");
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["status"], 401, "the first of the two: {line}");
    for path in ["/openai/v1/nothing", "/openai/api/chat", "/openai/v1"] {
        assert_eq!(ask(path, &key).await.status, 404, "{path}");
    }
}
