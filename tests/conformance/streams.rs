//! Streams, model loads and unloads.

use std::time::Duration;

use llamatower_sim::recording::{End, Framing};
use llamatower_sim::{Fault, FaultKind};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::*;

#[tokio::test]
async fn a_chat_streams_by_default() {
    let stage = stage(&[&[tiny()]]).await;
    let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!((answer.framing, answer.end), (Framing::Chunked, End::Clean));
    assert_eq!(lines(&answer).last().unwrap()["done"], true);
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    let answer = stage
        .post("/api/chat", chat("tiny", json!({"stream": false})))
        .await;
    assert_eq!(
        (answer.framing, body(&answer)["done"].as_bool()),
        (Framing::Length, Some(true))
    );
}

#[tokio::test]
async fn a_line_is_sent_before_the_next_is_generated() {
    let stage = stage(&[&[slow()]]).await;
    stage.sims[0].arm(FaultKind::stall_after(2));
    let mut stream = stage.open_chat(json!({})).await;
    let mut seen = Vec::new();
    while seen.windows(2).filter(|pair| pair == b"}\n").count() < 2 {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn bytes_pass_unchanged() {
    let stage = stage(&[&[tiny()]]).await;
    let line = "{\"x\":\"\\u003c < \u{2028} \u{85}\",\"done\":true}\n";
    let raw = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{line}\r\n0\r\n\r\n",
        line.len()
    );
    stage.sims[0].arm(FaultKind::Raw {
        bytes: raw,
        ending: Default::default(),
    });
    let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
    assert_eq!(text(&answer), line);
}

#[tokio::test]
async fn each_dialect_has_its_own_last_event() {
    let stage = stage(&[&[tiny()]]).await;
    let stream =
        json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 3});
    let answer = stage
        .post("/v1/chat/completions", chat("tiny", stream.clone()))
        .await;
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let openai = text(&answer);
    assert!(
        openai.contains("\"usage\"") && openai.ends_with("data: [DONE]\n\n"),
        "{openai}"
    );
    let anthropic = text(&stage.post("/v1/messages", chat("tiny", stream)).await);
    assert!(
        anthropic.contains("event: message_stop") && !anthropic.contains("[DONE]"),
        "{anthropic}"
    );
    let responses = json!({"model": "tiny", "input": "x", "stream": true});
    let responses = text(&stage.post("/v1/responses", responses).await);
    assert!(responses.contains("event: response.completed") && !responses.contains("[DONE]"));
}

#[tokio::test]
async fn tool_calls_and_thinking_are_unchanged() {
    let thinking = tiny().with_capability("thinking");
    let stage = stage(&[&[thinking]]).await;
    let tool = json!({"type": "function", "function": {"name": "get_gate", "parameters": {}}});
    let request = json!({"model": "tiny", "messages": [{"role": "user", "content": "call get_gate"}], "tools": [tool], "stream": false});
    let answer = body(&stage.post("/api/chat", request).await);
    assert_eq!(
        answer["message"]["tool_calls"][0]["function"]["name"],
        "get_gate"
    );
    let answer = stage
        .post("/api/chat", chat("tiny", json!({"think": true})))
        .await;
    assert!(
        lines(&answer)
            .iter()
            .any(|line| line["message"]["thinking"].is_string())
    );
}

#[tokio::test]
async fn silence_before_the_first_byte_is_limited_by_its_own_time_out() {
    let settings = [
        ("LLAMATOWER_FIRST_BYTE_TIMEOUT", "30s"),
        ("LLAMATOWER_IDLE_TIMEOUT", "50ms"),
    ];
    let stage = stage_with(&[&[tiny()]], &settings).await;
    stage.sims[0].arm(FaultKind::silence(Duration::from_millis(400)));
    assert_eq!(
        stage
            .post("/api/chat", chat("tiny", json!({})))
            .await
            .status,
        200
    );
}

/// Ollama sends nothing while it collects the arguments of a tool call.
#[tokio::test]
async fn a_pause_within_a_stream_is_as_long_as_its_clock_allows_whatever_ollama_timeout_says() {
    let stall = FaultKind::Stall {
        after_lines: 2,
        ms: Some(400),
    };
    let short = ("OLLAMA_TIMEOUT", "100ms");
    let tools = json!({"tools": [{"type": "function", "function": {"name": "write_file"}}]});
    for (settings, is_whole) in [
        (&[short, ("LLAMATOWER_IDLE_TIMEOUT", "600s")][..], true),
        (&[short][..], false),
        (&[][..], true),
    ] {
        let stage = stage_with(&[&[tiny()]], settings).await;
        stage.sims[0].arm(stall.clone());
        for (path, more) in [
            ("/api/chat", tools.clone()),
            ("/api/chat", json!({"format": "json"})),
            ("/v1/chat/completions", json!({"stream": true})),
        ] {
            let answer = stage.post(path, chat("tiny", more)).await;
            let is_clean = answer.end == End::Clean;
            assert_eq!(
                is_clean,
                is_whole,
                "{path}, {settings:?}: {}",
                text(&answer)
            );
            assert_eq!(text(&answer).contains("error"), !is_whole, "{path}");
        }
    }
}

/// Ollama sends nothing for minutes while it verifies what it has pulled.
#[tokio::test]
async fn what_manages_models_may_be_silent_for_as_long_as_its_own_clock_allows() {
    let short = ("OLLAMA_TIMEOUT", "100ms");
    let pause = ("LLAMATOWER_MANAGEMENT_TIMEOUT", "150ms");
    let patient = ("LLAMATOWER_BREAKER_FAILURES", "off");
    // Of the body `{}`.
    let blob = "/api/blobs/sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    for (settings, status) in [
        (&[short][..], 200..300),
        (&[short, pause, patient][..], 504..505),
    ] {
        let stage = stage_with(&[&[tiny()]], settings).await;
        for (path, request) in [
            ("/api/pull", json!({"model": "tiny", "stream": false})),
            ("/api/push", json!({"model": "tiny", "stream": false})),
            (
                "/api/create",
                json!({"model": "mine", "from": "tiny", "stream": false}),
            ),
            (blob, json!({})),
        ] {
            stage.sims[0].arm(
                Fault::new(FaultKind::silence(Duration::from_millis(400)))
                    .for_path(path)
                    .times(1),
            );
            let answer = stage.manage("POST", path, request).await;
            assert!(
                status.contains(&answer.status),
                "{path}, {settings:?}: {} {}",
                answer.status,
                text(&answer)
            );
        }
        stage.sims[0].arm(FaultKind::Stall {
            after_lines: 1,
            ms: Some(400),
        });
        for path in ["/api/pull", "/api/push"] {
            let request = json!({"model": "tiny"});
            let answer = stage.manage("POST", path, request).await;
            let is_clean = answer.end == End::Clean;
            assert_eq!(is_clean, status.start == 200, "{path}: {}", text(&answer));
        }
    }
}

#[tokio::test]
async fn a_line_of_seven_megabytes_passes() {
    let stage = stage(&[&[tiny()]]).await;
    stage.sims[0].arm(FaultKind::HugeLine { bytes: 7_000_000 });
    let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
    assert_eq!((answer.status, answer.end), (200, End::Clean));
    assert!(answer.body().len() > 7_000_000);
}

#[tokio::test]
async fn a_stream_is_not_compressed() {
    let stage = stage(&[&[tiny()]]).await;
    let request = chat("tiny", json!({})).to_string();
    let answer = stage
        .ask(
            "POST",
            "/api/chat",
            &[("Accept-Encoding", "gzip")],
            Some(&request),
        )
        .await;
    assert_eq!(answer.header("content-encoding"), None);
    assert!(lines(&answer).len() > 1);
}

#[tokio::test]
async fn a_request_without_a_prompt_loads_and_answers_once() {
    let stage = stage(&[&[tiny()]]).await;
    let answer = stage
        .post("/api/generate", json!({"model": "tiny", "stream": true}))
        .await;
    assert_eq!(answer.framing, Framing::Length);
    assert_eq!(body(&answer)["done_reason"], "load");
}

#[tokio::test]
async fn an_unload_reaches_every_backend_with_the_model_in_memory() {
    let stage = stage(&[&[tiny()], &[tiny()]]).await;
    for sim in &stage.sims {
        let load = json!({"model": "tiny"});
        let client = reqwest::Client::new();
        client
            .post(format!("{}/api/generate", sim.url()))
            .json(&load)
            .send()
            .await
            .unwrap();
        sim.wait_for(|state| state.resident == ["tiny:latest"])
            .await;
    }
    let answer = stage
        .post("/api/generate", json!({"model": "tiny", "keep_alive": 0}))
        .await;
    assert_eq!(body(&answer)["done_reason"], "unload");
    assert_eq!(body(&stage.get("/api/ps").await), json!({"models": []}));
}

/// Values that make a real Ollama let the model go within a second, or that only it can read, each with the
/// status of its refusal.
fn short_stays() -> Vec<(String, u16)> {
    let short = [
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0e5",
        "1e-9",
        "1e-10",
        "1e-400",
        "0.0001",
        "0.5",
        "9",
        "9.99",
        r#""0""#,
        r#""+0""#,
        r#""-0""#,
        r#""0s""#,
        r#""-0s""#,
        r#""00s""#,
        r#""0ms""#,
        r#""0m""#,
        r#""0h0m0s""#,
        r#"".0s""#,
        r#""0.1ns""#,
        r#""1ns""#,
        r#""1us""#,
        r#""1ms""#,
        r#""9s""#,
        r#""\u0030""#,
        r#""9.9s""#,
    ];
    // More seconds than a duration of Go holds are less than none.
    let large = ["1e10", "9223372037", "1e300"];
    let zeros = "0".repeat(200);
    let long = [
        format!("0.{zeros}1"),
        format!("\"{zeros}s\""),
        format!("\"0.{zeros}s\""),
    ];
    let unclear = large.map(str::to_owned).into_iter().chain(long);
    let short = short.map(|value| (value.to_owned(), 403));
    short
        .into_iter()
        .chain(unclear.map(|value| (value, 400)))
        .collect()
}

/// Requests without a prompt and with one, on each route whose `keep_alive` Ollama heeds.
const UNLOADING: [(&str, &str); 10] = [
    ("/api/generate", r#""model":"tiny""#),
    ("/api/generate", r#""model":"tiny","prompt":null"#),
    (
        "/api/generate",
        r#""model":"tiny","prompt":"x","stream":false"#,
    ),
    ("/api/chat", r#""model":"tiny""#),
    ("/api/chat", r#""model":"tiny","messages":[]"#),
    (
        "/api/chat",
        r#""model":"tiny","stream":false,"messages":[{"role":"user","content":"x"}]"#,
    ),
    ("/api/embed", r#""model":"tiny""#),
    ("/api/embed", r#""model":"tiny","input":["x"]"#),
    ("/api/embeddings", r#""model":"tiny""#),
    ("/api/embeddings", r#""model":"tiny","prompt":"x""#),
];

#[tokio::test]
async fn where_keys_are_asked_for_a_short_keep_alive_needs_an_administrators_in_each_form() {
    let (key, line) = llamatower_layers::api_key::generate_key("ada").unwrap();
    let stage = stage_with(&[&[tiny()]], &[("LLAMATOWER_API_KEYS", &line)]).await;
    let headers = [("x-api-key", key.as_str())];
    for (path, request) in UNLOADING {
        for (keep_alive, status) in short_stays() {
            for body in [
                format!("{{{request},\"keep_alive\":{keep_alive}}}"),
                format!("{{ \"keep\\u005falive\" :\t{keep_alive} ,\n{request}}}"),
            ] {
                let answer = stage.ask("POST", path, &headers, Some(&body)).await;
                let text = text(&answer);
                assert_eq!(answer.status, status, "{path} {body}: {text}");
                assert!(text.contains("keep_alive"), "{text}");
            }
        }
        for body in [
            // Go would take either.
            format!("{{{request},\"KEEP_ALIVE\":0}}"),
            format!("{{{request},\"\u{212a}eep_alive\":0}}"),
            format!("{{{request},\"keep_alive\":\"5m\",\"keep_alive\":0}}"),
            format!("{{{request},\"keep_alive\":0,\"keep_alive\":\"5m\"}}"),
        ] {
            let answer = stage.ask("POST", path, &headers, Some(&body)).await;
            assert_eq!(answer.status, 400, "{path} {body}");
        }
    }
    let asked = stage.sims[0].requests();
    assert!(
        asked.iter().all(|seen| seen.method() == "GET"),
        "none gets through"
    );
}

#[tokio::test]
async fn where_keys_are_asked_for_a_long_keep_alive_is_anybodys_and_a_short_one_an_administrators()
{
    let (key, line) = llamatower_layers::api_key::generate_key("ada").unwrap();
    let stage = stage_with(&[&[tiny()]], &[("LLAMATOWER_API_KEYS", &line)]).await;
    let headers = [("x-api-key", key.as_str())];
    for (path, request) in UNLOADING {
        for keep_alive in [
            "10",
            r#""10s""#,
            r#""5m""#,
            "-1",
            r#""-1ns""#,
            "-1e-5",
            "null",
        ] {
            let body = format!("{{{request},\"keep_alive\":{keep_alive}}}");
            let answer = stage.ask("POST", path, &headers, Some(&body)).await;
            assert_eq!(answer.status, 200, "{path} {body}: {}", text(&answer));
        }
        let body = format!("{{{request},\"keep_alive\":0}}");
        let admin = [("x-api-key", stage.admin.as_str())];
        let answer = stage.ask("POST", path, &admin, Some(&body)).await;
        assert_eq!(answer.status, 200, "{path}: {}", text(&answer));
    }
    // Ollama has no keep_alive there.
    let request = chat(
        "tiny",
        json!({"keep_alive": 0, "max_tokens": 3, "input": "x", "prompt": "x"}),
    );
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
    ] {
        let answer = stage
            .ask("POST", path, &headers, Some(&request.to_string()))
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", text(&answer));
    }
}

#[tokio::test]
async fn every_form_of_keep_alive_is_accepted() {
    let stage = stage(&[&[tiny()]]).await;
    for keep_alive in [json!(-1), json!("10m"), Value::Null] {
        let request = chat("tiny", json!({"keep_alive": keep_alive, "stream": false}));
        assert_eq!(stage.post("/api/chat", request).await.status, 200);
    }
}
