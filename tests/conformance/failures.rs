//! Errors, broken backends and clients that disconnect.

use llamatower_sim::recording::End;
use llamatower_sim::{Cut, Ending, Fault, FaultKind, Outcome};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::*;

#[tokio::test]
async fn a_missing_model_has_the_message_of_each_route() {
    let stage = stage(&[&[tiny()], &[slow()]]).await;
    for (path, request, expected) in [
        (
            "/api/generate",
            json!({"model": "x", "prompt": "x"}),
            "model 'x' not found",
        ),
        ("/api/chat", chat("x", json!({})), "model 'x' not found"),
        (
            "/api/embed",
            json!({"model": "x", "input": "x"}),
            "model \"x\" not found, try pulling it first",
        ),
        (
            "/api/show",
            json!({"model": "x"}),
            "model 'x:latest' not found",
        ),
    ] {
        let answer = stage.post(path, request).await;
        assert_eq!(
            (answer.status, body(&answer)["error"].as_str()),
            (404, Some(expected)),
            "{path}"
        );
    }
    let answer = stage
        .post("/v1/chat/completions", chat("x", json!({})))
        .await;
    assert_eq!(
        (answer.status, body(&answer)["error"]["type"].as_str()),
        (404, Some("not_found_error"))
    );
}

#[tokio::test]
async fn an_empty_or_broken_body_is_a_400() {
    let stage = stage(&[&[tiny()]]).await;
    let answer = stage.ask("POST", "/api/chat", &[], Some("")).await;
    assert_eq!(
        (answer.status, text(&answer).as_str()),
        (400, r#"{"error":"missing request body"}"#)
    );
    for (path, request) in [
        ("/v1/chat/completions", ""),
        ("/api/chat", "{\"model\":"),
        ("/v1/messages", "["),
    ] {
        assert_eq!(
            stage.ask("POST", path, &[], Some(request)).await.status,
            400,
            "{path}"
        );
    }
}

#[tokio::test]
async fn anthropics_route_has_anthropics_errors() {
    let stage = stage(&[&[tiny()]]).await;
    let request = json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}]});
    let answer = stage.post("/v1/messages", request).await;
    let error = body(&answer);
    assert_eq!(
        (answer.status, error["type"].as_str()),
        (400, Some("error"))
    );
    assert_eq!(error["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_busy_backend_is_skipped() {
    let stage = stage(&[&[tiny()], &[tiny()]]).await;
    stage.sims[0].arm(FaultKind::Busy);
    for _ in 0..4 {
        assert_eq!(
            stage
                .post("/api/chat", chat("tiny", json!({})))
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn when_all_are_busy_the_client_gets_retry_after() {
    let stage = stage(&[&[tiny()], &[tiny()]]).await;
    stage.sims.iter().for_each(|sim| sim.arm(FaultKind::Busy));
    for (path, error) in [
        ("/api/chat", "/error"),
        ("/v1/chat/completions", "/error/message"),
        ("/v1/messages", "/error/message"),
    ] {
        let answer = stage
            .post(path, chat("tiny", json!({"max_tokens": 3})))
            .await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("1")),
            "{path}"
        );
        assert!(
            body(&answer)
                .pointer(error)
                .unwrap()
                .as_str()
                .unwrap()
                .starts_with("server busy")
        );
    }
}

#[tokio::test]
async fn an_error_before_the_first_token_has_its_own_status() {
    let stage = stage(&[&[tiny()]]).await;
    stage.sims[0].arm(FaultKind::LoadFailure);
    assert_eq!(
        stage
            .post("/api/chat", chat("tiny", json!({})))
            .await
            .status,
        500
    );
}

#[tokio::test]
async fn an_error_line_of_the_backend_is_forwarded_as_the_last_line() {
    let stage = stage(&[&[tiny()]]).await;
    stage.sims[0].arm(FaultKind::EngineDies { after_lines: 2 });
    let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
    let lines = lines(&answer);
    assert_eq!((lines.len(), answer.end), (3, End::Clean));
    assert!(
        lines[2]["error"]
            .as_str()
            .unwrap()
            .contains("unexpected EOF")
    );
}

#[tokio::test]
async fn a_killed_backend_ends_the_stream_with_an_error_line_and_unclean() {
    for ending in [Ending::Fin, Ending::Reset] {
        let stage = stage(&[&[tiny()]]).await;
        stage.sims[0].arm(FaultKind::die_after(2, ending));
        let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
        let lines = lines(&answer);
        assert!(
            lines.last().unwrap()["error"].is_string(),
            "{ending:?}: {lines:?}"
        );
        assert_eq!(answer.end, End::Cut, "{ending:?}");
    }
}

#[tokio::test]
async fn a_killed_backend_ends_an_event_stream_with_an_error_event_and_unclean() {
    let stage = stage(&[&[slow()]]).await;
    for (path, error) in [
        ("/v1/chat/completions", "data: {\"error\":"),
        ("/v1/messages", "event: error\ndata: {\"type\":\"error\""),
        (
            "/v1/responses",
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":5,",
        ),
    ] {
        stage.sims[0].arm(
            Fault::new(FaultKind::die_after(5, Ending::Fin))
                .for_path(path)
                .times(1),
        );
        let request = chat(
            "slow",
            json!({"stream": true, "max_tokens": 9, "input": "x"}),
        );
        let answer = stage.post(path, request).await;
        let seen = text(&answer);
        assert!(seen.contains(error), "{path}: {seen:.1500}");
        // `response.failed` is an end that clients of Responses know.
        let end = match path {
            "/v1/responses" => End::Clean,
            _ => End::Cut,
        };
        assert_eq!(answer.end, end, "{path}");
    }
}

#[tokio::test]
async fn a_backend_killed_inside_a_line_leaves_a_half_that_is_ended_an_error_line_and_an_unclean_end()
 {
    for cut in [Cut::InsideLine, Cut::InsideChunk] {
        let stage = stage(&[&[tiny()]]).await;
        stage.sims[0].arm(FaultKind::Die {
            after_lines: 1,
            ending: Ending::Fin,
            cut,
        });
        let answer = stage.post("/api/chat", chat("tiny", json!({}))).await;
        let seen = text(&answer);
        assert_eq!(answer.end, End::Cut, "{cut:?}: {seen}");
        let lines: Vec<_> = seen.split_inclusive('\n').collect();
        let [_, half, last] = &lines[..] else {
            panic!("{cut:?}: {seen}");
        };
        serde_json::from_str::<Value>(half).expect_err("half of a line");
        let last: Value = serde_json::from_str(last).unwrap();
        assert!(last["error"].is_string(), "{seen}");
    }
}

#[tokio::test]
async fn a_backend_killed_inside_an_event_leaves_the_half_and_an_unclean_end() {
    let stage = stage(&[&[tiny()]]).await;
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/responses"] {
        for cut in [Cut::InsideLine, Cut::InsideChunk] {
            let fault = Fault::new(FaultKind::Die {
                after_lines: 3,
                ending: Ending::Fin,
                cut,
            });
            stage.sims[0].arm(fault.for_path(path).times(1));
            let request = chat(
                "tiny",
                json!({"stream": true, "max_tokens": 9, "input": "x"}),
            );
            let answer = stage.post(path, request).await;
            let seen = text(&answer);
            assert_eq!(answer.end, End::Cut, "{path}: {seen}");
            assert!(
                !seen.ends_with("\n\n") && !seen.contains("broke in the middle"),
                "{path}: {seen}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_that_ollama_ended_without_its_last_event_gets_an_error_event_on_purpose() {
    let stage = stage(&[&[tiny()]]).await;
    stage.sims[0].arm(FaultKind::EngineDies { after_lines: 2 });
    let request = chat("tiny", json!({"stream": true}));
    let seen = text(&stage.post("/v1/chat/completions", request).await);
    assert!(
        seen.trim_end()
            .rsplit("\n\n")
            .next()
            .unwrap()
            .starts_with("data: {\"error\":"),
        "{seen}"
    );
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_its_request_at_any_stage() {
    let stage = stage(&[&[slow()]]).await;
    let mut streaming = stage.open_chat(json!({})).await;
    streaming.read_u8().await.unwrap();
    let silent = stage.open_chat(json!({"stream": false})).await;
    let sim = &stage.sims[0];
    sim.wait_for(|state| state.generating == 2).await;
    drop(streaming);
    sim.wait_for(|state| state.cancelled == 1).await;
    drop(silent);
    sim.wait_for(|state| state.cancelled == 2 && state.generating == 0)
        .await;
}

#[tokio::test]
async fn a_refused_connection_is_followed_by_the_next_backend() {
    let stage = stage(&[&[tiny()], &[tiny()]]).await;
    stage.sims[0].arm(FaultKind::Refuse { ms: 60_000 });
    for _ in 0..4 {
        assert_eq!(
            stage
                .post("/api/chat", chat("tiny", json!({})))
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn a_started_answer_is_not_retried() {
    let stage = stage(&[&[tiny()], &[tiny()]]).await;
    for sim in &stage.sims {
        sim.arm(FaultKind::die_after(1, Ending::Fin));
    }
    stage.post("/api/chat", chat("tiny", json!({}))).await;
    let asked = |sim: &llamatower_sim::SimHandle| {
        sim.requests()
            .iter()
            .filter(|seen| seen.path() == "/api/chat")
            .count()
    };
    assert_eq!(stage.sims.iter().map(asked).sum::<usize>(), 1);
}

#[tokio::test]
async fn management_requests_are_never_retried() {
    let stage = stage(&[&[tiny()], &[tiny()]]).await;
    for sim in &stage.sims {
        sim.arm(
            FaultKind::Drop {
                ending: Ending::Fin,
            }
            .clone(),
        );
    }
    for (method, path) in [
        ("POST", "/api/pull"),
        ("POST", "/api/create"),
        ("DELETE", "/api/delete"),
    ] {
        let answer = stage.manage(method, path, json!({"model": "tiny"})).await;
        assert_eq!(answer.status, 502, "{path}");
        let seen = |sim: &llamatower_sim::SimHandle| {
            sim.requests()
                .iter()
                .filter(|seen| seen.path() == path)
                .count()
        };
        assert_eq!(stage.sims.iter().map(seen).sum::<usize>(), 1, "{path}");
    }
}

#[tokio::test]
async fn with_every_backend_down_the_error_is_in_the_dialect_of_the_route() {
    let mut stage = stage(&[&[tiny()]]).await;
    stage.sims.remove(0).kill();
    assert_eq!(stage.get("/health").await.status, 200);
    let answer = stage
        .post("/v1/messages", chat("tiny", json!({"max_tokens": 3})))
        .await;
    assert_eq!(
        (answer.status, body(&answer)["error"]["type"].as_str()),
        (502, Some("api_error"))
    );
    let error: Value = body(&stage.post("/api/chat", chat("tiny", json!({}))).await);
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .contains("cannot connect to the backend")
    );
}

#[tokio::test]
async fn an_answer_that_was_read_completely_is_complete() {
    let stage = stage(&[&[tiny()]]).await;
    stage.post("/api/chat", chat("tiny", json!({}))).await;
    let state = stage.sims[0]
        .wait_for(|state| state.in_flight == 0 && state.requests_seen > 0)
        .await;
    let chat = state
        .requests
        .iter()
        .find(|seen| seen.path() == "/api/chat")
        .unwrap();
    assert_eq!(chat.outcome(), Some(Outcome::Complete));
}
