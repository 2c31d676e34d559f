//! Overflow to a cloud service.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{
    Answer, Cloud, Gateway, Reply, chat, keys, load, long_stream, send, sim_with, tiny, with,
    within_limit,
};

const WHEN: &str = "LLAMATOWER_CLOUD_WHEN";
const ANONYMOUS: (&str, &str) = ("LLAMATOWER_CLOUD_ANONYMOUS", "true");

/// A gateway whose only server, which has `tiny`, has been stopped.
async fn without_servers(cloud: &Cloud, settings: &[(&str, &str)]) -> Gateway {
    let sim = tiny().await;
    let mut all = cloud.settings().to_vec();
    all.extend(settings);
    let gateway = Gateway::start_up(&[&sim], &all).await;
    drop(sim);
    gateway
}

/// A request for `tiny` on each of the routes, streamed.
fn requests() -> [(&'static str, Value); 3] {
    let openai = with(chat(), json!({"stream": true}));
    [
        ("/api/chat", chat()),
        ("/api/generate", json!({"model": "tiny", "prompt": "hi"})),
        ("/v1/chat/completions", openai),
    ]
}

/// Whether the cloud has answered with all of its text.
fn is_from_cloud(answer: &Answer) -> bool {
    let is_whole = answer.text.contains("Hel") && answer.text.contains("\"lo\"");
    answer.status == 200 && answer.header("x-llamatower-backend") == "cloud" && is_whole
}

#[tokio::test]
async fn with_the_only_server_stopped_native_and_openai_streams_go_on() {
    let cloud = Cloud::start().await;
    let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS]).await;
    for (path, body) in requests() {
        let answer = gateway.post(path, &body).await;
        assert!(is_from_cloud(&answer), "{path}: {answer:?}");
        assert_eq!(answer.header("x-llamatower-model"), "openai/gpt-oss-20b");
        assert!(
            answer.text.contains("\"model\":\"tiny\""),
            "{}",
            answer.text
        );
        assert!(!answer.text.contains("gpt-oss"), "{}", answer.text);
        for field in ["set-cookie", "x-groq-region", "x-ratelimit-limit-requests"] {
            assert_eq!(
                answer.header(field),
                "",
                "{field} is about the gateway's account"
            );
        }
    }
    let native = gateway.post("/api/chat", &chat()).await;
    let lines: Vec<Value> = native
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["done"], &last["eval_count"]),
        (&json!(true), &json!(5))
    );
    assert!(
        lines
            .iter()
            .any(|line| line["message"]["thinking"] == "Say it.")
    );
    let whole = with(chat(), json!({"stream": false}));
    let whole = gateway.post("/v1/chat/completions", &whole).await.json();
    assert_eq!(
        (&whole["model"], &whole["usage"]["total_tokens"]),
        (&json!("tiny"), &json!(17))
    );

    let seen = cloud.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.body["model"] == "openai/gpt-oss-20b")
    );
    for seen in seen {
        assert!(
            seen.head.starts_with("post /openai/v1/chat/completions "),
            "{}",
            seen.head
        );
        assert!(
            seen.head.contains("authorization: bearer gsk-secret\r\n"),
            "{}",
            seen.head
        );
        assert!(
            !seen.head.contains("traceparent") && !seen.head.contains("x-request-id"),
            "{}",
            seen.head
        );
    }
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(
        (&line["backend"], &line["cloud"]),
        (&json!("cloud"), &json!("down"))
    );
    assert_eq!(line["served_model"], "openai/gpt-oss-20b");
    let status = gateway.admin_page("/status").await.json();
    assert_eq!(status["cloud"]["when"], json!(["down"]));
    assert_eq!(
        (
            &status["cloud"]["tokens_today"],
            &status["cloud"]["rests_for"]
        ),
        (&json!(85), &Value::Null)
    );
    assert_eq!(gateway.metric("llamatower_cloud_requests_total").await, 5.0);
    assert_eq!(gateway.metric("llamatower_cloud_tokens_total").await, 85.0);
}

#[tokio::test]
async fn a_request_that_every_server_would_refuse_does_not_leave_the_network() {
    let cloud = Cloud::start().await;
    let sim = tiny().await;
    // As Ollama answers it. The cloud would take the request.
    let body = r#"{"error":"option \"stop\" must be of type array"}"#.to_owned();
    sim.arm(Fault::new(FaultKind::Status { status: 500, body }).for_path("/api/chat"));
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "down,missing,busy"), ANONYMOUS]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let mistake = with(chat(), json!({"options": {"stop": "x"}}));
    let answer = gateway.post("/api/chat", &mistake).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.text.contains("must be of type array"), "{answer:?}");
    assert!(cloud.seen().is_empty());
}

#[tokio::test]
async fn an_error_too_large_to_keep_has_its_status_if_the_cloud_fails_too() {
    let cloud = Cloud::start().await;
    cloud.reply(Reply::Refusal(503, ""));
    let sim = tiny().await;
    let body = format!(r#"{{"error":"{}"}}"#, "x".repeat(100_000));
    sim.arm(Fault::new(FaultKind::Status { status: 503, body }).for_path("/api/chat"));
    let mut settings = cloud.settings().to_vec();
    settings.extend([(WHEN, "busy"), ANONYMOUS]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(cloud.seen().len(), 1);
    let text = answer.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 503, "{text}");
    assert!(text.contains(&sim.addr().to_string()), "{text}");
}

#[tokio::test]
async fn without_the_policy_the_client_gets_the_fleets_own_error() {
    let cloud = Cloud::start().await;
    let unset = without_servers(&cloud, &[ANONYMOUS]).await;
    let other = without_servers(&cloud, &[(WHEN, "missing,busy"), ANONYMOUS]).await;
    let nameless = without_servers(&cloud, &[(WHEN, "down")]).await;
    for gateway in [unset, other, nameless] {
        for (path, body) in requests() {
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.status, 502, "{answer:?}");
            assert!(
                answer.text.contains("cannot connect to the backend"),
                "{}",
                answer.text
            );
        }
    }
    assert_eq!(cloud.seen().len(), 0);
}

#[tokio::test]
async fn a_model_that_is_nowhere_is_asked_for_in_the_cloud() {
    let cloud = Cloud::start().await;
    let sim = Sim::builder()
        .model(ModelSpec::new("other"))
        .start()
        .await
        .unwrap();
    let mut settings = cloud.settings().to_vec();
    let alias = ("LLAMATOWER_ALIASES", "gpt=absent|tiny");
    settings.extend([(WHEN, "missing"), ANONYMOUS, alias]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    assert!(is_from_cloud(&answer), "{answer:?}");
    let answer = gateway
        .post("/api/chat", &with(chat(), json!({"model": "gpt"})))
        .await;
    assert!(
        is_from_cloud(&answer) && answer.text.contains("\"model\":\"gpt\""),
        "{answer:?}"
    );
    let own = gateway
        .post("/api/chat", &with(chat(), json!({"model": "other"})))
        .await;
    assert_eq!(own.header("x-llamatower-backend"), sim.addr().to_string());
    let unmapped = gateway
        .post("/api/chat", &with(chat(), json!({"model": "absent"})))
        .await;
    assert_eq!(unmapped.status, 404);
    // There is nothing to load.
    let load = gateway
        .post("/api/generate", &json!({"model": "tiny"}))
        .await;
    assert_eq!(
        (load.status, &load.json()["done_reason"]),
        (200, &json!("load"))
    );
    assert_eq!(cloud.seen().len(), 2);
}

#[tokio::test]
async fn a_service_may_have_the_same_names_as_the_servers() {
    for (map, there) in [
        ("tiny=tiny", "tiny"),
        ("Tiny=tiny:latest", "tiny:latest"),
        ("tiny:latest=TINY", "TINY"),
    ] {
        let cloud = Cloud::start().await;
        let [url, authority, _, key] = cloud.settings();
        let settings = [
            url,
            authority,
            key,
            ("LLAMATOWER_CLOUD_MODELS", map),
            (WHEN, "down"),
            ANONYMOUS,
        ];
        let sim = tiny().await;
        let gateway = Gateway::start_up(&[&sim], &settings).await;
        drop(sim);
        for (path, body) in requests() {
            let answer = gateway.post(path, &body).await;
            assert!(is_from_cloud(&answer), "{map} {path}: {answer:?}");
            assert_eq!(answer.header("x-llamatower-model"), there);
            let names = |text: &str| answer.text.contains(&format!("\"model\":\"{text}\""));
            assert!(names("tiny"), "{map} {path}: {}", answer.text);
        }
        let seen = cloud.seen();
        assert!(seen.iter().all(|seen| seen.body["model"] == there), "{map}");
    }
}

#[tokio::test]
async fn a_request_that_would_wait_too_long_goes_to_the_cloud() {
    let cloud = Cloud::start().await;
    let sim = long_stream().await;
    let slots = ("LLAMATOWER_SLOTS", "1");
    for rule in [
        ("LLAMATOWER_QUEUE_MAX_WAIT", "50ms"),
        ("LLAMATOWER_CLOUD_BUSY_AFTER", "50ms"),
    ] {
        let mut settings = cloud.settings().to_vec();
        settings.extend([(WHEN, "busy"), ANONYMOUS, slots, rule]);
        let gateway = Gateway::start_up(&[&sim], &settings).await;
        let mut first = gateway.connect().await;
        first.post("/api/chat", &chat()).await;
        first.head().await;
        let answer = gateway.post("/api/chat", &chat()).await;
        assert!(is_from_cloud(&answer), "{rule:?}: {answer:?}");
        let line = gateway
            .logged("the answer of the cloud", |line| line["cloud"] == "busy")
            .await;
        assert_eq!(line["backend"], "cloud");
        let queued = line["queued"].as_f64().expect("it has waited");
        // The wait in the queue begins a little after that for the fleet.
        assert!(queued >= 0.04, "{rule:?}: {line}");
        let waited = gateway.metric("llamatower_queue_wait_seconds_sum").await;
        assert!(waited >= 0.04, "{rule:?}: {waited}");
        let first_byte = line["ttfb"].as_f64().unwrap();
        let overhead = gateway.metric("llamatower_overhead_seconds_sum").await;
        assert!(
            overhead > 0.0 && overhead <= first_byte - queued,
            "{rule:?}: {overhead} {line}"
        );
    }
}

#[tokio::test]
async fn a_request_whose_expected_wait_is_too_long_is_not_queued_at_all() {
    let cloud = Cloud::start().await;
    let model = ModelSpec::new("tiny").with_slots(8);
    let model = model
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(100);
    let sim = sim_with(model).await;
    load(&sim).await;
    let mut settings = cloud.settings().to_vec();
    let limit = ("LLAMATOWER_CLOUD_BUSY_AFTER", "500ms");
    settings.extend([(WHEN, "busy"), ANONYMOUS, ("LLAMATOWER_SLOTS", "1"), limit]);
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    // The first one tells how long requests take.
    let first = gateway.post("/api/chat", &chat()).await;
    assert_eq!(first.header("x-llamatower-backend"), sim.addr().to_string());
    let mut second = gateway.connect().await;
    second.post("/api/chat", &chat()).await;
    second.head().await;
    let third = gateway.post("/api/chat", &chat()).await;
    assert!(is_from_cloud(&third), "{third:?}");
    let line = gateway
        .logged("the answer of the cloud", |line| line["cloud"] == "busy")
        .await;
    assert_eq!(
        (&line["queued"], &line["attempts"]),
        (&Value::Null, &json!(1))
    );
}

#[tokio::test]
async fn an_error_about_the_address_of_the_service_names_its_own_setting() {
    let cloud = Cloud::start().await;
    // The certificate is for the address alone.
    let url = cloud.settings()[0].1.replace("127.0.0.1", "localhost");
    let settings = [(WHEN, "down"), ANONYMOUS, ("LLAMATOWER_CLOUD_URL", &url)];
    let gateway = without_servers(&cloud, &settings).await;
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 502, "{}", answer.text);
    let is_it = |line: &Value| line["message"] == "the cloud service has not answered a request";
    let line = gateway.logged("the failure", is_it).await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("is not for localhost"), "{line}");
    assert!(error.contains("LLAMATOWER_CLOUD_URL"), "{line}");
}

/// A proxy that connects everywhere, and counts.
async fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let used = Arc::new(AtomicUsize::new(0));
    let counted = used.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    stream.read_line(&mut head).await.unwrap();
                }
                let target = head.strip_prefix("CONNECT ").unwrap();
                let target = target.split_once(' ').unwrap().0;
                let mut other = TcpStream::connect(target).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
            });
        }
    });
    (url, used)
}

#[tokio::test]
async fn the_proxies_of_the_environment_are_for_the_cloud_alone() {
    let cloud = Cloud::start().await;
    let (proxy, used) = proxy().await;
    let proxies = [
        ("HTTPS_PROXY", &*proxy),
        ("HTTP_PROXY", &*proxy),
        ("ALL_PROXY", &*proxy),
    ];
    let settings = [&proxies[..], &[(WHEN, "down"), ANONYMOUS]].concat();
    let gateway = without_servers(&cloud, &settings).await;
    assert_eq!(
        used.load(Ordering::Relaxed),
        0,
        "servers are asked directly"
    );
    assert!(is_from_cloud(&gateway.post("/api/chat", &chat()).await));
    assert_eq!(used.load(Ordering::Relaxed), 1);
    // The connection is used again.
    assert!(is_from_cloud(&gateway.post("/api/chat", &chat()).await));
    assert_eq!(used.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn only_clients_that_are_allowed_use_the_cloud() {
    let cloud = Cloud::start().await;
    let keys = keys(&["ada", "bob"]);
    let settings = [
        (WHEN, "down"),
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_CLOUD_KEYS_OPT_OUT", "bob"),
    ];
    let gateway = without_servers(&cloud, &settings).await;
    let ask = async |key: &str, model: &str| {
        let request = gateway.post_request("/api/chat", &with(chat(), json!({"model": model})));
        send(request.bearer_auth(format!("{key}-secret"))).await
    };
    assert!(is_from_cloud(&ask("ada", "tiny").await));
    assert_eq!(ask("bob", "tiny").await.status, 502);
    assert_eq!(cloud.seen().len(), 1);
    // Models that Ollama runs in its own cloud are under the same rule.
    let refused = ask("bob", "kimi:1t-cloud").await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text.contains("LLAMATOWER_CLOUD_KEYS_OPT_OUT"),
        "{}",
        refused.text
    );
    assert_ne!(ask("ada", "kimi:1t-cloud").await.status, 403);
    let models = Sim::builder().model(ModelSpec::new("tiny"));
    let models = models.model(ModelSpec::new("kimi:1t-cloud"));
    let anonymous = models.start().await.unwrap();
    let aliases = "kimi=kimi:1t-cloud|glm:cloud, first=kimi:1t-cloud|tiny, last=tiny|glm:cloud";
    let gateway = Gateway::start_up(&[&anonymous], &[("LLAMATOWER_ALIASES", aliases)]).await;
    for alias in ["first", "last"] {
        let answer = gateway
            .post("/api/chat", &with(chat(), json!({"model": alias})))
            .await;
        let served = answer.header("x-llamatower-model");
        assert_eq!((answer.status, served), (200, "tiny"), "{}", answer.text);
    }
    for model in ["kimi:1t-cloud", "kimi"] {
        let refused = gateway
            .post(
                "/v1/chat/completions",
                &with(chat(), json!({"model": model})),
            )
            .await;
        assert_eq!(refused.status, 403);
        assert!(
            refused.text.contains("LLAMATOWER_CLOUD_ANONYMOUS"),
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn spending_ends_with_the_tokens_of_the_day() {
    let cloud = Cloud::start().await;
    let keys = keys(&["ada", "bob"]);
    let settings = [
        (WHEN, "down"),
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_CLOUD_TOKENS", "70"),
        ("LLAMATOWER_CLOUD_KEY_TOKENS", "45"),
    ];
    let gateway = without_servers(&cloud, &settings).await;
    let ask = async |key: &str| {
        let request = gateway.post_request("/v1/chat/completions", &requests()[2].1);
        send(request.bearer_auth(format!("{key}-secret"))).await
    };
    // Each takes 17 tokens, and is expected to take about 25, once the usual output is known.
    assert!(is_from_cloud(&ask("ada").await));
    assert!(is_from_cloud(&ask("ada").await));
    assert_eq!(ask("ada").await.status, 502, "none are left of this key's");
    assert!(is_from_cloud(&ask("bob").await));
    assert_eq!(ask("bob").await.status, 502, "none are left of all");
    assert_eq!(cloud.seen().len(), 3);
    let status = gateway.admin_page("/status").await.json();
    assert_eq!(
        (
            &status["cloud"]["tokens_today"],
            &status["cloud"]["tokens_limit"]
        ),
        (&json!(51), &json!(70))
    );
    // The log tells once whose tokens are used up, and not for each request.
    for key in ["ada", "bob", "bob"] {
        let answer = ask(key).await;
        assert_eq!(answer.status, 502);
        let id = answer.header("x-request-id");
        gateway
            .logged("the end of a request", |line| line["request_id"] == *id)
            .await;
    }
    let told = |whose: &str| {
        let is_it = |line: &Value| {
            let error = line["error"].as_str().unwrap_or_default();
            line["level"] == "WARN" && error.contains(whose)
        };
        gateway.count_logged(is_it)
    };
    assert_eq!(told("19 of all clients' 70 tokens per day are left"), 1);
    assert_eq!(told("11 of this client's 45 tokens per day are left"), 1);
    let page = gateway.admin_page("/metrics").await.text;
    let refused = page
        .lines()
        .find(|line| line.contains("result=\"no_tokens\"") && line.contains("\"down\""));
    assert!(refused.unwrap().ends_with(" 5"), "{page}");
}

#[tokio::test]
async fn what_a_response_may_have_is_reserved_of_the_tokens_of_the_day() {
    let cloud = Cloud::start().await;
    let settings = [
        (WHEN, "down"),
        ANONYMOUS,
        ("LLAMATOWER_CLOUD_TOKENS", "300"),
    ];
    let gateway = without_servers(&cloud, &settings).await;
    let ask = async |path: &str, more: Value| {
        let body = with(chat(), with(json!({"stream": true}), more));
        gateway.post(path, &body).await
    };
    let openai = "/v1/chat/completions";
    // It takes 17 tokens.
    assert!(is_from_cloud(
        &ask(openai, json!({"max_tokens": 200})).await
    ));
    for (path, limit) in [
        (openai, json!({"max_tokens": 290})),
        (openai, json!({"max_completion_tokens": 290})),
        ("/api/chat", json!({"options": {"num_predict": 290}})),
    ] {
        assert_eq!(ask(path, limit.clone()).await.status, 502, "{limit}");
    }
    assert!(is_from_cloud(
        &ask(openai, json!({"max_tokens": 200})).await
    ));
    // Without a limit the usual output is reserved, which is 5 tokens.
    while is_from_cloud(&ask(openai, json!({})).await) {}
    let status = gateway.admin_page("/status").await.json();
    let used = status["cloud"]["tokens_today"].as_u64().unwrap();
    assert!((250..=300).contains(&used), "{used}");
}

#[tokio::test]
async fn the_service_is_left_alone_until_it_wants_requests_again() {
    for (reply, longest) in [
        (Reply::Refusal(429, "retry-after: 120\r\n"), 120.0),
        (
            Reply::Refusal(
                429,
                "x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 1m30s\r\n",
            ),
            90.0,
        ),
        (Reply::Refusal(498, ""), 30.0),
    ] {
        let cloud = Cloud::start().await;
        let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS]).await;
        cloud.reply(reply);
        for (path, body) in requests() {
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.status, 502, "{answer:?}");
            assert!(
                answer.text.contains("cannot connect to the backend"),
                "{}",
                answer.text
            );
        }
        assert_eq!(cloud.seen().len(), 1);
        let rest = gateway.admin_page("/status").await.json()["cloud"]["rests_for"]
            .as_f64()
            .unwrap();
        assert!(rest > longest - 25.0 && rest <= longest, "{rest}");
    }
    let cloud = Cloud::start().await;
    let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS]).await;
    cloud.reply(Reply::With(
        "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1h\r\n",
    ));
    assert!(is_from_cloud(&gateway.post("/api/chat", &chat()).await));
    assert_eq!(
        gateway.post("/api/chat", &chat()).await.status,
        502,
        "it was its last request"
    );
}

#[tokio::test]
async fn a_request_that_the_service_fails_at_is_no_reason_not_to_ask_it_for_others() {
    let cloud = Cloud::start().await;
    let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS]).await;
    for status in [500, 503, 403] {
        for _ in 0..4 {
            cloud.reply(Reply::Refusal(status, ""));
            let failed = gateway.post("/api/chat", &chat()).await;
            assert_eq!(failed.status, 502, "{status}: {failed:?}");
        }
        let answer = gateway.post("/api/chat", &chat()).await;
        assert!(is_from_cloud(&answer), "{status}: {answer:?}");
    }
}

#[tokio::test]
async fn a_json_body_without_a_type_is_sent_to_the_cloud_as_json() {
    let cloud = Cloud::start().await;
    let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS]).await;
    let mut connection = gateway.connect().await;
    connection.post("/v1/chat/completions", &chat()).await;
    assert_eq!(connection.head().await.status, 200);
    let head = &cloud.seen()[0].head;
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_visible_in_each_dialect() {
    let cloud = Cloud::start().await;
    let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS]).await;
    for (path, body) in requests() {
        cloud.reply(Reply::MidStreamError);
        let mut answer = gateway.post_request(path, &body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        // A broken answer in OpenAI's dialect has an unclean end, after its error.
        let mut text = String::new();
        while let Ok(Some(chunk)) = within_limit("the end", answer.chunk()).await {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let last = text.trim_end().lines().last().unwrap();
        let last: Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap();
        let error = last["error"].to_string();
        assert!(error.contains("over capacity in the middle"), "{text}");
        assert!(text.contains("Hel") && !text.contains("[DONE]"), "{text}");
    }
}

#[tokio::test]
async fn the_text_of_the_services_own_failure_is_in_the_log() {
    let cloud = Cloud::start().await;
    for (path, body) in requests() {
        let log = ("LLAMATOWER_LOG", "info,llamatower::cloud=debug");
        let gateway = without_servers(&cloud, &[(WHEN, "down"), ANONYMOUS, log]).await;
        cloud.reply(Reply::Refusal(500, ""));
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.status, 502, "{path}: the servers' own error");
        let what = "the cloud service responded with an error";
        let is_it = |line: &Value| line["message"] == what;
        let line = gateway.logged(what, is_it).await;
        assert_eq!(line["status"], 500, "{line}");
        assert_eq!(line["reason"], r"over the\u{1b} limit", "{line}");
    }
}

#[tokio::test]
async fn the_example_of_the_guide_is_answered_as_it_says() {
    let guide = include_str!("../../docs/models.md");
    let (_, section) = guide.split_once("## The cloud\n").unwrap();
    let (_, example) = section.split_once("```toml\n").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), example.split_once("```").unwrap().0).unwrap();
    let line = section
        .lines()
        .find(|line| line.contains("LLAMATOWER_CLOUD_WHEN="));
    let variables = line.unwrap().split_whitespace();
    let variables: Vec<_> = variables.filter_map(|word| word.split_once('=')).collect();
    assert_eq!(variables.len(), 2);

    let cloud = Cloud::start().await;
    let keys = keys(&["ada", "ben"]);
    let [url, authority, _, key] = cloud.settings();
    let common = [url, authority, key, ("LLAMATOWER_API_KEYS", &*keys)];
    for given in [
        vec![("LLAMATOWER_CONFIG", file.path().to_str().unwrap())],
        variables,
    ] {
        let sim = Sim::builder().model(ModelSpec::new("qwen2.5-coder:7b"));
        let sim = sim.start().await.unwrap();
        let gateway = Gateway::start_up(&[&sim], &[&common[..], &given].concat()).await;
        drop(sim);
        let body = with(chat(), json!({"model": "qwen2.5-coder:7b"}));
        let request = gateway.post_request("/api/chat", &body);
        let answer = send(request.bearer_auth("ada-secret")).await;
        assert!(is_from_cloud(&answer), "{answer:?}");
        for field in ["x-llamatower-backend", "x-llamatower-model"] {
            let shown = format!("    {field}: {}\n", answer.header(field));
            assert!(section.contains(&shown), "{shown}");
        }
        assert!(answer.text.contains("\"model\":\"qwen2.5-coder:7b\""));
    }
}
