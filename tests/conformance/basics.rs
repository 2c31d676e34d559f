//! Routes, model lists and model names.

use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn the_root_says_that_ollama_is_running() {
    let stage = stage(&[&[]]).await;
    let answer = stage.get("/").await;
    assert_eq!(
        (answer.status, text(&answer).as_str()),
        (200, "Ollama is running")
    );
    let answer = stage.ask("HEAD", "/", &[], None).await;
    assert_eq!((answer.status, answer.body().len()), (200, 0));
}

#[tokio::test]
async fn head_of_version_and_tags_is_allowed_and_of_ps_is_not() {
    let stage = stage(&[&[tiny()]]).await;
    for path in ["/api/version", "/api/tags"] {
        assert_eq!(
            stage.ask("HEAD", path, &[], None).await.status,
            200,
            "{path}"
        );
    }
    let answer = stage.ask("HEAD", "/api/ps", &[], None).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
}

#[tokio::test]
async fn a_wrong_method_gets_the_allowed_ones_and_a_wrong_path_a_text() {
    let stage = stage(&[&[]]).await;
    let answer = stage.get("/api/chat").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    let answer = stage.get("/nope").await;
    assert_eq!(
        (answer.status, text(&answer).as_str()),
        (404, "404 page not found")
    );
    assert_eq!(answer.header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn the_list_of_an_empty_fleet_is_empty_and_not_null() {
    let stage = stage(&[&[], &[]]).await;
    assert_eq!(text(&stage.get("/api/tags").await), r#"{"models":[]}"#);
}

#[tokio::test]
async fn a_model_on_two_backends_is_one_row() {
    let stage = stage(&[&[tiny()], &[tiny(), slow()]]).await;
    let tags = body(&stage.get("/api/tags").await);
    assert_eq!(tags["models"].as_array().unwrap().len(), 2);
    let models = body(&stage.get("/v1/models").await);
    assert_eq!(models["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn with_a_backend_down_the_list_has_the_other_backends_models() {
    let mut stage = stage(&[&[tiny()], &[slow()]]).await;
    stage.sims.remove(0).kill();
    let answer = stage.get("/api/tags").await;
    assert_eq!(answer.status, 200);
    assert_eq!(body(&answer)["models"][0]["name"], "slow:latest");
}

#[tokio::test]
async fn every_spelling_of_a_name_reaches_the_backend_that_has_it() {
    let stage = stage(&[&[tiny()], &[slow()]]).await;
    let holder = stage.sims[0].addr().to_string();
    for name in [
        "tiny",
        "TINY:latest",
        "library/tiny",
        "registry.ollama.ai/library/tiny:latest",
    ] {
        let answer = stage
            .post("/api/chat", chat(name, json!({"stream": false})))
            .await;
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(
            answer.header("x-llamatower-backend"),
            Some(holder.as_str()),
            "{name}"
        );
        assert_eq!(
            body(&answer)["model"],
            name,
            "the answer has the client's spelling"
        );
    }
}

#[tokio::test]
async fn a_digest_in_a_name_is_invalid() {
    let stage = stage(&[&[tiny()]]).await;
    let name = format!("tiny@sha256:{}", "0".repeat(64));
    let answer = stage
        .post("/api/generate", json!({"model": name, "prompt": "x"}))
        .await;
    assert_eq!(
        (answer.status, text(&answer).as_str()),
        (400, r#"{"error":"invalid model name"}"#)
    );
}

#[tokio::test]
async fn the_old_field_name_also_gives_the_model() {
    let stage = stage(&[&[tiny()], &[slow()]]).await;
    assert_eq!(
        stage
            .post("/api/show", json!({"name": "slow"}))
            .await
            .status,
        200
    );
    assert_eq!(
        stage
            .manage(
                "POST",
                "/api/pull",
                json!({"name": "tiny", "stream": false})
            )
            .await
            .status,
        200
    );
    assert_eq!(
        stage
            .manage("DELETE", "/api/delete", json!({"name": "tiny"}))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_model_after_a_large_image_is_found_and_the_body_arrives_unchanged() {
    let stage = stage(&[&[tiny()], &[slow()]]).await;
    let image = "A".repeat(100 * 1024 * 1024);
    let request = format!(
        r#"{{"prompt":"x","padding":"{image}","stream":false,"options":{{"num_predict":1}},"model":"slow"}}"#
    );
    let answer = stage
        .ask("POST", "/api/generate", &[], Some(&request))
        .await;
    assert_eq!(answer.status, 200, "{}", text(&answer));
    let seen = stage.sims[1].requests();
    let seen = seen
        .iter()
        .find(|seen| seen.path() == "/api/generate")
        .unwrap();
    assert!(seen.body().unwrap() == request.as_bytes());
}

#[tokio::test]
async fn neither_content_type_nor_content_length_is_needed() {
    let stage = stage(&[&[tiny()]]).await;
    let request = chat("tiny", json!({"stream": false})).to_string();
    assert_eq!(
        stage
            .ask("POST", "/api/chat", &[], Some(&request))
            .await
            .status,
        200
    );
    let chunked = [("Transfer-Encoding", "chunked")];
    assert_eq!(
        stage
            .ask("POST", "/api/chat", &chunked, Some(&request))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_duplicate_or_differently_spelled_key_is_refused_on_purpose() {
    let stage = stage(&[&[tiny()]]).await;
    for request in [
        r#"{"model":"x","model":"tiny","prompt":"x"}"#,
        r#"{"MODEL":"tiny","prompt":"x"}"#,
    ] {
        assert_eq!(
            stage
                .ask("POST", "/api/generate", &[], Some(request))
                .await
                .status,
            400,
            "{request}"
        );
    }
    assert!(
        stage.sims[0]
            .requests()
            .iter()
            .all(|seen| seen.path() != "/api/generate")
    );
}

#[tokio::test]
async fn a_request_without_a_model_gets_the_default_one() {
    let stage = stage_with(&[&[tiny()]], &[("DEFAULT_OLLAMA_MODEL", "tiny")]).await;
    let answer = stage
        .ask(
            "POST",
            "/api/generate",
            &[],
            Some(r#"{"prompt":"x","stream":false}"#),
        )
        .await;
    assert_eq!(
        (answer.status, body(&answer)["model"].as_str()),
        (200, Some("tiny"))
    );
}
