//! Start and start errors.

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim};
use serde_json::json;

use crate::harness::{Connection, Gateway, chat, run, send, tiny, with};

#[tokio::test]
async fn a_taken_port_ends_the_program_with_3_and_one_line_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exited = run(&[], &[("LLAMATOWER_LISTEN", &address)]).await;
    assert_eq!(exited.code, Some(3));
    assert!(exited.stderr.contains(&address), "{}", exited.stderr);
    assert_eq!(exited.stderr.lines().count(), 1, "{}", exited.stderr);
}

#[tokio::test]
async fn an_invalid_setting_ends_the_program_with_2_and_names_its_variable() {
    for (variable, value) in [
        ("LLAMATOWER_IDLE_TIMEOUT", "soon"),
        ("OLLAMA_URL", "nowhere at all"),
        ("LLAMATOWER_LISTEN", "here"),
        ("LLAMATOWER_LOG", "a=b=c"),
        ("LLAMATOWER_API_KEYS", "plain-text-key"),
        ("LLAMATOWER_EXTRA_PATHS", "no-slash"),
        ("LLAMATOWER_LOG", "inof"),
        ("LLAMATOWER_LOG", "info,llamatower=debgu"),
        ("LLAMATOWER_LOG", ","),
        ("LLAMATOWER_API_KEYS", ","),
        ("LLAMATOWER_API_KEYS_FILE", "/dev/null"),
        ("LLAMATOWER_API_KEY", "x"),
        ("LLAMATOWER_REQUIRE_KEYS", "true"),
        ("LLAMATOWER_BREAKER_OPEN_FOR", "1h"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
    ] {
        for arguments in [&[][..], &["check"]] {
            let exited = run(arguments, &[(variable, value)]).await;
            assert_eq!(exited.code, Some(2), "{variable}: {}", exited.stderr);
            assert!(exited.stderr.contains(variable), "{}", exited.stderr);
        }
    }
}

#[tokio::test]
async fn a_password_in_an_address_ends_the_program_with_2_and_is_never_shown() {
    let with_password = ("OLLAMA_URL", "https://ada:hunter2@gpu.example");
    for arguments in [&[][..], &["check"]] {
        let exited = run(arguments, &[with_password]).await;
        assert_eq!(exited.code, Some(2));
        assert!(exited.stderr.contains("OLLAMA_URL"), "{}", exited.stderr);
        assert!(!exited.stderr.contains("hunter2"), "{}", exited.stderr);
        assert!(!exited.stdout.contains("hunter2"), "{}", exited.stdout);
    }
    let token = ("LLAMATOWER_BACKEND_TOKENS", "localhost=basic ada:hunter2");
    let checked = run(&["check"], &[token]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(!checked.stdout.contains("hunter2") && !checked.stdout.contains("YWRh"));
}

#[tokio::test]
async fn an_unreadable_settings_file_ends_the_program_with_2_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let garbled = folder.path().join("garbled.toml");
    std::fs::write(&garbled, "[listen\n").unwrap();
    let missing = folder.path().join("missing.toml");
    for path in [&garbled, &missing] {
        let path = path.to_str().unwrap();
        let exited = run(&["--config", path], &[]).await;
        assert_eq!(exited.code, Some(2), "{}", exited.stderr);
        assert!(exited.stderr.contains(path), "{}", exited.stderr);
    }
}

#[tokio::test]
async fn without_a_backend_it_is_healthy_and_responds_with_502_in_each_dialect() {
    let stopped = tiny().await;
    let url = stopped.url();
    stopped.kill();
    let gateway = Gateway::start(&[], &[("OLLAMA_URL", &url)]).await;
    assert_eq!(send(gateway.get("/health")).await.status, 200);
    for (path, message) in [
        ("/api/chat", "/error"),
        ("/v1/chat/completions", "/error/message"),
        ("/v1/messages", "/error/message"),
    ] {
        let answer = gateway
            .post(path, &with(chat(), json!({"max_tokens": 5})))
            .await;
        assert_eq!(answer.status, 502, "{path}");
        assert!(
            answer
                .json()
                .pointer(message)
                .is_some_and(|text| text.is_string()),
            "{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn answers_that_are_not_http_are_502_in_the_dialect() {
    for kind in [
        FaultKind::Garbage { after_lines: None },
        FaultKind::TwoLengths,
        FaultKind::LengthAndChunked,
        FaultKind::SwitchingProtocols,
    ] {
        let sim = tiny().await;
        sim.arm(Fault::new(kind.clone()).for_path("/api/chat"));
        let gateway = Gateway::start(&[&sim], &[]).await;
        let answer = gateway.post("/api/chat", &chat()).await;
        assert_eq!(answer.status, 502, "{kind:?}: {}", answer.text);
        assert!(answer.json()["error"].is_string());
    }
}

#[tokio::test]
async fn it_serves_on_ipv6_if_available() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_LISTEN", "[::1]:0")]).await;
    let mut connection: Connection = gateway.connect().await;
    connection.get("/").await;
    assert_eq!(connection.head().await.status, 200);
}

#[tokio::test]
async fn a_too_large_head_gets_an_error_and_is_logged_and_counted() {
    let sim = tiny().await;
    let limit = ("LLAMATOWER_MAX_HEAD_BYTES", "4KiB");
    let gateway = Gateway::start(&[&sim], &[limit]).await;
    let mut connection = gateway.connect().await;
    let cookie = "y".repeat(5000);
    connection
        .send(format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n"
        ))
        .await;
    assert_eq!(connection.head().await.status, 431);
    let (text, _) = connection.rest().await;
    assert!(text.contains("LLAMATOWER_MAX_HEAD_BYTES"), "{text}");
    let is_it = |line: &serde_json::Value| line["status"] == 431;
    let line = gateway.logged("a refused head", is_it).await;
    assert!(!line.to_string().contains("yyy"), "{line}");
    assert_eq!(gateway.metric("llamatower_heads_refused_total").await, 1.0);
    let open = gateway.sample("llamatower_connections", &["clients"]).await;
    assert_eq!(open, Some(1.0));
}

#[tokio::test]
async fn a_server_that_comes_up_is_logged_with_its_version_and_models() {
    let models = (0..25).map(|number| ModelSpec::new(format!("model-{number}")));
    let sim = models.fold(Sim::builder(), |sim, model| sim.model(model));
    let sim = sim.start().await.unwrap();
    let gateway = Gateway::start(&[&sim], &[]).await;
    let is_up = |line: &serde_json::Value| line["message"] == "the backend is up";
    let line = gateway.logged("a backend that is up", is_up).await;
    let version = reqwest::get(format!("{}/api/version", sim.url())).await;
    let version: serde_json::Value = version.unwrap().json().await.unwrap();
    assert_eq!(line["version"], version["version"], "{line}");
    assert_eq!(line["models"], 25, "{line}");
    let names = line["names"].as_str().unwrap();
    assert!(names.contains("model-0:latest, "), "{names}");
    assert!(names.ends_with(", and 5 more"), "{names}");

    sim.arm(FaultKind::Refuse { ms: 600_000 });
    gateway.post("/api/chat", &chat()).await;
    gateway
        .logged("a backend that is down", |line| {
            line["message"] == "the backend is down"
        })
        .await;
    let seen = gateway.lines_logged();
    sim.clear_faults();
    gateway
        .logged_after(seen, "a backend that is up again", is_up)
        .await;
}

#[tokio::test]
async fn a_filter_that_suppresses_the_gateways_warnings_by_accident_is_a_warning_on_stderr() {
    // With a taken address, the program ends after its start.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for (filter, is_told) in [
        ("hyper=debug", true),
        ("llamatower::reload=info", true),
        ("off", false),
        ("llamatower=off", false),
        ("hyper=debug,llamatower=error", false),
        ("warn", false),
    ] {
        let settings = [("LLAMATOWER_LOG", filter), ("LLAMATOWER_LISTEN", &listen)];
        for (arguments, code) in [(&[][..], 3), (&["check"], 0)] {
            let exited = run(arguments, &settings).await;
            assert_eq!(exited.code, Some(code), "{}", exited.stderr);
            let begin = "llamatower: warning: LLAMATOWER_LOG: ";
            let told = exited.stderr.lines().filter(|line| line.starts_with(begin));
            assert_eq!(told.count() == 1, is_told, "{filter}: {}", exited.stderr);
        }
    }
}

/// The layers check their order in debug builds; see `layers/src/order.rs`.
#[cfg(debug_assertions)]
#[tokio::test]
async fn no_layer_of_the_stack_reports_a_wrong_order() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    gateway.access_line("/api/chat").await;
    let is_about_order = |line: &serde_json::Value| {
        let message = line["message"].as_str();
        message.is_some_and(|message| message.contains("belongs inside of it"))
    };
    assert!(!gateway.has_logged(is_about_order));
}
