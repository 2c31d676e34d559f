//! Which limit applies to which request.

use serde_json::json;

use crate::harness::{ADA, ADA_AND_BOB, Gateway, chat, send, tiny};

/// Sends all requests that run no model, and returns the statuses.
async fn list(gateway: &Gateway) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in ["/api/tags", "/api/ps", "/v1/models", "/v1/models/tiny"] {
        statuses.push(send(gateway.get(path)).await.status);
    }
    let show = gateway.post("/api/show", &json!({"model": "tiny"})).await;
    statuses.push(show.status);
    statuses
}

#[tokio::test]
async fn lists_and_probes_do_not_count_against_the_request_limit() {
    for limit in ["LLAMATOWER_RATE_LIMIT", "LLAMATOWER_KEY_RATE_LIMIT"] {
        let sim = tiny().await;
        let gateway = Gateway::start(&[&sim], &[(limit, "2/h")]).await;
        for _ in 0..3 {
            assert_eq!(list(&gateway).await, [200; 5], "{limit}");
        }
        for _ in 0..2 {
            let answer = gateway.post("/api/chat", &chat()).await;
            assert_eq!(answer.status, 200, "{limit}: {}", answer.text);
        }
        for path in ["/api/chat", "/v1/chat/completions"] {
            assert_eq!(gateway.post(path, &chat()).await.status, 429, "{limit}");
        }
        assert_eq!(list(&gateway).await, [200; 5], "{limit}: used up");
    }
}

/// The statuses of so many chat requests with a key.
async fn ask(gateway: &Gateway, key: &str, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..times {
        let request = gateway.post_request("/api/chat", &chat());
        let answer = send(request.bearer_auth(format!("{key}-secret"))).await;
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test]
async fn a_key_can_be_without_the_limits_of_the_others() {
    let sim = tiny().await;
    for general in [
        ("LLAMATOWER_KEY_RATE_LIMIT", "1/h"),
        ("LLAMATOWER_KEY_TOKEN_LIMIT", "2/day"),
    ] {
        let off = ("LLAMATOWER_KEY_LIMITS", "ada:rate=off, ada:tokens=off");
        let gateway = Gateway::start(&[&sim], &[ADA_AND_BOB, general, off]).await;
        assert_eq!(ask(&gateway, "ada", 3).await, [200; 3], "{general:?}");
        assert_eq!(ask(&gateway, "bob", 2).await, [200, 429], "{general:?}");
    }
}

#[tokio::test]
async fn what_the_limit_of_a_key_refuses_does_not_count_for_all_clients() {
    let sim = tiny().await;
    let settings = [
        ADA_AND_BOB,
        ("LLAMATOWER_RATE_LIMIT", "3/h"),
        ("LLAMATOWER_KEY_LIMITS", "ada:rate=1/h"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    assert_eq!(ask(&gateway, "ada", 4).await, [200, 429, 429, 429]);
    assert_eq!(ask(&gateway, "bob", 3).await, [200, 200, 429]);
}

#[tokio::test]
async fn lists_have_their_own_limit_and_probes_have_none() {
    let sim = tiny().await;
    let settings = [
        ("LLAMATOWER_LISTING_RATE_LIMIT", "3/h"),
        ("LLAMATOWER_KEY_RATE_LIMIT", "100/h"),
    ];
    let gateway = Gateway::start(&[&sim], &settings).await;
    assert_eq!(list(&gateway).await, [200, 200, 200, 429, 429]);
    let refusal = send(gateway.get("/api/tags")).await;
    assert_eq!(refusal.status, 429);
    assert!(!refusal.header("retry-after").is_empty());
    assert_eq!(
        refusal.header("ratelimit-policy"),
        "\"listing\";q=3;w=3600",
        "only that of the limit that was met"
    );
    for _ in 0..5 {
        for path in ["/", "/api/version", "/health"] {
            let answer = send(gateway.get(path)).await;
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.header("ratelimit"), "", "{path}");
        }
        let head = reqwest::Client::new().head(gateway.url("/"));
        assert_eq!(send(head).await.status, 200);
    }
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.header("ratelimit-policy"),
        "\"key\";q=100;w=3600",
        "only that of the limit that counts"
    );
}

#[tokio::test]
async fn without_limits_lists_are_not_limited_either() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let answer = send(gateway.get("/api/tags")).await;
    assert_eq!((answer.status, answer.header("ratelimit")), (200, ""));
    let settings = [("LLAMATOWER_RATE_LIMIT", "5/h")];
    let gateway = Gateway::start(&[&sim], &settings).await;
    let answer = send(gateway.get("/api/tags")).await;
    assert_eq!(
        answer.header("ratelimit-policy"),
        "\"listing\";q=50;w=1",
        "generous"
    );
}

#[tokio::test]
async fn a_pull_of_an_installed_model_succeeds_without_permission_to_manage() {
    let sim = tiny().await;
    for (settings, key) in [(vec![], None), (vec![ADA], Some("ada-secret"))] {
        let gateway = Gateway::start(&[&sim], &settings).await;
        let pull = async |body| {
            let post_request = gateway.post_request("/api/pull", &body);
            send(match key {
                Some(key) => post_request.bearer_auth(key),
                None => post_request,
            })
            .await
        };
        for name in ["tiny", "tiny:latest", "TINY", "library/tiny"] {
            for body in [json!({"model": name}), json!({"name": name})] {
                let answer = pull(body).await;
                assert_eq!(answer.status, 200, "{name}: {}", answer.text);
                assert_eq!(answer.header("content-type"), "application/x-ndjson");
                let lines: Vec<_> = answer.text.lines().collect();
                assert_eq!(lines.first(), Some(&r#"{"status":"pulling manifest"}"#));
                assert_eq!(lines.last(), Some(&r#"{"status":"success"}"#));
            }
        }
        let whole = pull(json!({"model": "tiny", "stream": false})).await;
        assert_eq!(whole.header("content-type"), "application/json");
        assert_eq!(whole.text, r#"{"status":"success"}"#);
        for body in [
            json!({"model": "absent"}),
            json!({"model": "tiny:7b"}),
            json!({"model": "elsewhere.example/library/tiny"}),
            json!({"model": ""}),
            json!({}),
        ] {
            let refusal = pull(body.clone()).await;
            assert_eq!(refusal.status, 403, "{body}: {}", refusal.text);
            assert!(refusal.text.contains("LLAMATOWER_ADMIN_KEYS"));
        }
        if key.is_some() {
            let stranger = gateway.post("/api/pull", &json!({"model": "tiny"})).await;
            assert!([401, 403].contains(&stranger.status), "{}", stranger.text);
        }
    }
    let pulls = sim.requests();
    let pulls = pulls.iter().filter(|seen| seen.path() == "/api/pull");
    assert_eq!(pulls.count(), 0, "no server is asked");
}

#[tokio::test]
async fn other_management_stays_refused() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    for path in ["/api/push", "/api/create", "/api/copy"] {
        let body = json!({"model": "tiny", "source": "tiny", "destination": "other"});
        assert_eq!(gateway.post(path, &body).await.status, 403, "{path}");
    }
    let delete = reqwest::Client::new().delete(gateway.url("/api/delete"));
    let delete = delete.json(&json!({"model": "tiny"}));
    assert_eq!(send(delete).await.status, 403);
}
