//! The status page's documents, its live events, its sign-in, and what operators do with it.

use futures_util::StreamExt;
use llamatower_sim::SimHandle;
use serde_json::{Value, json};

use crate::harness::{
    ADA, ADMIN_BEN, Answer, Gateway, chat, load, long_stream, send, sim_with, tiny, with,
    within_limit,
};
use crate::keys_file::entry;

const PROXIES: (&str, &str) = ("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.1");

async fn gateway(sim: &SimHandle, settings: &[(&str, &str)]) -> Gateway {
    let gateway = Gateway::start(&[sim], settings).await;
    let is_up = |line: &Value| line["message"] == "the backend is up";
    gateway.logged("the backend is up", is_up).await;
    gateway
}

async fn overview(gateway: &Gateway) -> Value {
    gateway.admin_page("/status/overview").await.json()
}

/// The request that has waited longest, once there is one.
async fn first_waiting(gateway: &Gateway) -> Value {
    within_limit("a waiting request", async {
        loop {
            if let Some(row) = overview(gateway).await["waiting"].get(0) {
                return row.clone();
            }
        }
    })
    .await
}

/// A request of an operator on another machine.
fn remote(gateway: &Gateway, path: &str) -> reqwest::RequestBuilder {
    let page = reqwest::Client::new().get(format!("{}{path}", gateway.admin_url()));
    page.header("x-forwarded-for", "10.0.0.7")
}

/// Reads the events of a page until one has this name and its data satisfies the condition.
async fn event(
    page: reqwest::Response,
    name: &str,
    is_wanted: impl Fn(&Value) -> bool,
) -> (reqwest::Response, Value) {
    let mut page = page;
    let mut text = String::new();
    let wanted = async {
        loop {
            let chunk = page.chunk().await.unwrap().expect("the stream goes on");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((event, rest)) = text.split_once("\n\n") {
                let data = event.strip_prefix(&format!("event: {name}\ndata: "));
                let data = data.map(|data| serde_json::from_str(data).unwrap());
                text = rest.to_owned();
                if let Some(data) = data.filter(&is_wanted) {
                    return data;
                }
            }
        }
    };
    let data = within_limit(name, wanted).await;
    (page, data)
}

#[tokio::test]
async fn a_finished_request_is_shown_with_its_tokens_and_the_reason_of_its_server() {
    let sim = tiny().await;
    load(&sim).await;
    let gateway = gateway(&sim, &[]).await;
    assert_eq!(send(gateway.get("/api/tags")).await.status, 200);
    // The first response shows how fast the server is.
    for _ in 0..2 {
        assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    }
    let overview = overview(&gateway).await;
    let requests = overview["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 2, "{requests:?}");
    let row = &requests[0];
    assert_eq!(
        (&row["route"], &row["model"]),
        (&json!("POST /api/chat"), &json!("tiny"))
    );
    assert_eq!(
        (&row["status"], &row["ending"]),
        (&json!(200), &json!("complete"))
    );
    assert_eq!(row["backend"], sim.addr().to_string());
    assert_eq!(row["client"], "address:127.0.0.1");
    assert!(row["output_tokens"].as_u64() > Some(0), "{row}");
    assert!(row["terms"]["work"].as_f64() > Some(0.0), "{row}");
    let decisions = gateway.admin_page("/status/decisions").await.json();
    assert_eq!(decisions["decisions"][0]["id"], row["decision"]);
    assert_eq!(overview["clients"][0]["requests"], 2);
    assert_eq!(overview["models"][0]["model"], "tiny:latest");
    assert_eq!(overview["gateway"]["is_draining"], false);
}

#[tokio::test]
async fn the_keys_are_shown_with_what_is_used_of_their_budgets() {
    let sim = tiny().await;
    let settings = [
        ADA,
        ADMIN_BEN,
        ("LLAMATOWER_KEY_LIMITS", "ada:tokens=1000/day"),
    ];
    let gateway = gateway(&sim, &settings).await;
    let keys = overview(&gateway).await["keys"].clone();
    let ada = json!({
        "name": "ada",
        "is_admin": false,
        "expires_at": null,
        "budgets": [{"window": "day", "used": 0, "limit": 1000}],
        "concurrency": null,
    });
    let ben = json!({
        "name": "ben",
        "is_admin": true,
        "expires_at": null,
        "budgets": [],
        "concurrency": null,
    });
    assert_eq!(keys, json!([ada, ben]));
    let whole = with(chat(), json!({"stream": false}));
    let request = gateway.post_request("/api/chat", &whole);
    let answer = send(request.bearer_auth("ada-secret")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let used = overview(&gateway).await["keys"][0]["budgets"][0]["used"].clone();
    let (prompt, output) = (
        &answer.json()["prompt_eval_count"],
        &answer.json()["eval_count"],
    );
    assert_eq!(
        used.as_u64(),
        Some(prompt.as_u64().unwrap() + output.as_u64().unwrap())
    );
}

#[tokio::test]
async fn a_waiting_request_is_shown_and_can_be_cancelled() {
    let sim = long_stream().await;
    let gateway = gateway(&sim, &[("LLAMATOWER_SLOTS", "1")]).await;
    let stream = with(chat(), json!({"stream": true}));
    let mut running = gateway
        .post_request("/api/chat", &stream)
        .send()
        .await
        .unwrap();
    assert!(running.chunk().await.unwrap().is_some());
    let waiting = tokio::spawn(send(gateway.post_request("/api/chat", &chat())));
    let row = first_waiting(&gateway).await;
    let shown = (&row["model"], &row["client"], &row["ahead"]);
    assert_eq!(
        shown,
        (
            &json!("tiny:latest"),
            &json!("address:127.0.0.1"),
            &json!(0)
        )
    );
    let path = format!("/queue/{}/cancel", row["id"]);
    let cancelled = send(gateway.admin_post(&path)).await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["is_cancelled"]),
        (200, &json!(true))
    );
    let refused = within_limit("the end of the wait", waiting).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.text.contains("an operator cancelled this request"),
        "{}",
        refused.text
    );
    assert_eq!(
        send(gateway.admin_post(&path)).await.status,
        404,
        "it waits no longer"
    );
    let row = &overview(&gateway).await["requests"][0];
    assert_eq!(row["error"], "cancelled_by_operator");
}

#[tokio::test]
async fn a_cancelled_request_for_an_alias_is_not_sent_to_its_next_model() {
    let sim = long_stream().await;
    let other = sim_with(llamatower_sim::ModelSpec::new("small")).await;
    let settings = [
        ("LLAMATOWER_SLOTS", "1"),
        ("LLAMATOWER_ALIASES", "any=tiny|small"),
    ];
    let gateway = Gateway::start_up(&[&sim, &other], &settings).await;
    let stream = with(chat(), json!({"stream": true}));
    let running = gateway.post_request("/api/chat", &stream).send();
    let mut running = running.await.unwrap();
    assert!(running.chunk().await.unwrap().is_some());
    let of_alias = with(chat(), json!({"model": "any"}));
    let waiting = tokio::spawn(send(gateway.post_request("/api/chat", &of_alias)));
    let row = first_waiting(&gateway).await;
    let cancel = gateway.admin_post(&format!("/queue/{}/cancel", row["id"]));
    assert_eq!(send(cancel).await.status, 200);
    let refused = within_limit("the end of the wait", waiting).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text);
    let asked = |path: &str| other.requests().iter().any(|seen| seen.path() == path);
    assert!(!asked("/api/chat"));
}

#[tokio::test]
async fn an_open_page_of_another_machine_ends_when_the_keys_are_changed() {
    let sim = tiny().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, ADMIN_BEN.1).unwrap();
    let path = file.to_str().unwrap();
    let gateway = gateway(&sim, &[PROXIES, ("LLAMATOWER_ADMIN_KEYS_FILE", path)]).await;
    let (_, _, cookie) = sign_in(&gateway, "ben-secret").await;
    let cookie = cookie.unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let by_cookie = remote(&gateway, "/status/events").header("cookie", cookie);
    let by_key = remote(&gateway, "/status/events").bearer_auth("ben-secret");
    let mut pages = Vec::new();
    for page in [by_cookie, by_key] {
        let (page, _) = event(page.send().await.unwrap(), "gateway", |_| true).await;
        pages.push(page);
    }
    std::fs::write(&file, ADMIN_BEN.1.replace("ben=", "cy=")).unwrap();
    gateway.hang_up("settings reloaded").await;
    for page in pages {
        let rest = page.bytes_stream().collect::<Vec<_>>();
        within_limit("the end of the events", rest).await;
    }
    let form = browse(&gateway, Some(cookie)).await;
    assert!(form.text.contains("action=\"/sign-in\""), "{}", form.text);
}

#[tokio::test]
async fn a_proxy_on_this_machine_gives_other_machines_no_rights() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[ADMIN_BEN]).await;
    assert_eq!(send(remote(&gateway, "/status/overview")).await.status, 403);
    let order = gateway.admin_post(&format!("/backends/{}/cordon", sim.addr()));
    let order = order.header("x-forwarded-for", "10.0.0.7");
    assert_eq!(send(order).await.status, 403);
    assert_eq!(gateway.admin_page("/status/overview").await.status, 200);
}

#[tokio::test]
async fn a_foreign_host_is_refused_from_this_machine_on_every_address() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[("LLAMATOWER_ADMIN_LISTEN", "0.0.0.0:0")]).await;
    let foreign = gateway.admin_page_under("evil.example", "/status").await;
    assert_eq!(foreign.status, 403, "{}", foreign.text);
    assert_eq!(
        gateway
            .admin_page_under("localhost", "/status")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn behind_tls_the_cookie_is_sent_by_tls_alone() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[PROXIES, ADMIN_BEN]).await;
    let form = sign_in_form(&gateway, "ben-secret").header("x-forwarded-proto", "https");
    let answer = form.send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn an_open_page_gets_what_changes_and_nothing_else() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[]).await;
    let page = reqwest::get(format!("{}/status/events", gateway.admin_url()))
        .await
        .unwrap();
    assert_eq!(page.headers()["content-type"], "text/event-stream");
    let (page, servers) = event(page, "backends", |_| true).await;
    assert_eq!(servers[0]["is_cordoned"], false);
    let path = format!("/backends/{}/cordon", sim.addr());
    assert_eq!(send(gateway.admin_post(&path)).await.status, 200);
    let (page, servers) = event(page, "backends", |_| true).await;
    assert_eq!(
        servers[0]["is_cordoned"], true,
        "the first update after the change"
    );
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 503);
    let (_, requests) = event(page, "requests", |rows| rows[0]["status"] == 503).await;
    assert_eq!(requests[0]["error"], "cordoned");
}

#[tokio::test]
async fn the_stream_of_events_does_not_hold_up_the_end_of_the_program() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[]).await;
    let page = reqwest::get(format!("{}/status/events", gateway.admin_url()))
        .await
        .unwrap();
    let (page, _) = event(page, "gateway", |_| true).await;
    let rest = within_limit(
        "the end of the events",
        page.bytes_stream().collect::<Vec<_>>(),
    );
    let (code, _) = tokio::join!(gateway.terminate(), rest);
    assert_eq!(code, Some(0));
}

/// The page `/` as a browser on another machine asks for it.
async fn browse(gateway: &Gateway, cookie: Option<&str>) -> Answer {
    let mut page = remote(gateway, "/").header("accept", "text/html,*/*;q=0.8");
    if let Some(cookie) = cookie {
        page = page.header("cookie", format!("theme=dark; {cookie}"));
    }
    send(page).await
}

/// The form of the sign-in page with this key.
fn sign_in_form(gateway: &Gateway, key: &str) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let url = format!("{}/sign-in", gateway.admin_url());
    let form = client.build().unwrap().post(url);
    form.header("x-forwarded-for", "10.0.0.7")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("key={key}"))
}

/// Sends the form, and returns the response and the cookie.
async fn sign_in(gateway: &Gateway, key: &str) -> (u16, String, Option<String>) {
    let answer = sign_in_form(gateway, key).send().await.unwrap();
    let cookie = answer.headers().get("set-cookie");
    let cookie = cookie.map(|cookie| cookie.to_str().unwrap().to_owned());
    (
        answer.status().as_u16(),
        answer.text().await.unwrap(),
        cookie,
    )
}

#[tokio::test]
async fn from_another_machine_a_browser_signs_in_with_an_administrators_key() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[PROXIES, ADMIN_BEN, ADA]).await;
    let form = browse(&gateway, None).await;
    assert!(form.text.contains("action=\"/sign-in\""), "{}", form.text);
    for path in ["/status/overview", "/status/events", "/status/requests"] {
        let refused = send(remote(&gateway, path)).await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text.contains("sign in at /"), "{}", refused.text);
    }
    for path in ["/metrics", "/status", "/page.js"] {
        assert_eq!(send(remote(&gateway, path)).await.status, 200, "{path}");
    }
    let (status, text, cookie) = sign_in(&gateway, "wrong").await;
    assert_eq!((status, cookie), (403, None));
    assert!(text.contains("This key is not known."), "{text}");
    let (status, _, cookie) = sign_in(&gateway, "ben-secret").await;
    let cookie = cookie.unwrap();
    assert_eq!(status, 303);
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("ben-secret"));
    let cookie = cookie.split(';').next().unwrap();
    let page = browse(&gateway, Some(cookie)).await;
    assert!(page.text.contains("id=\"server-rows\""), "{}", page.text);
    let path = format!("/backends/{}/cordon", sim.addr());
    let order = || {
        let order = gateway.admin_post(&path);
        order
            .header("x-forwarded-for", "10.0.0.7")
            .header("cookie", cookie)
    };
    assert_eq!(send(order()).await.status, 200);
    for origin in [
        "https://elsewhere.example",
        "http://localhost:8080",
        "vscode-webview://x",
    ] {
        let foreign = order().header("origin", origin);
        assert_eq!(
            send(foreign).await.status,
            403,
            "a page of another site: {origin}"
        );
    }
    assert_eq!(
        send(order().header("origin", gateway.admin_url()))
            .await
            .status,
        200
    );
    let forged = browse(&gateway, Some("llamatower_session=0123456789abcdef")).await;
    assert!(forged.text.contains("action=\"/sign-in\""));
}

#[tokio::test]
async fn wrong_keys_in_the_form_are_counted_and_slowed_down() {
    let sim = tiny().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let more = "expires = 2020-01-31\npermissions = { manage = true }";
    std::fs::write(&file, entry("old", "old-secret", more)).unwrap();
    let settings = [
        PROXIES,
        ADMIN_BEN,
        ADA,
        ("LLAMATOWER_KEYS_FILE", file.to_str().unwrap()),
        ("LLAMATOWER_FAILED_KEY_RATE_LIMIT", "3/h"),
    ];
    let gateway = gateway(&sim, &settings).await;
    for (key, text) in [
        ("ada-secret", "not an administrator"),
        ("old-secret", "This key has expired."),
        ("wrong", "This key is not known."),
        ("wr\u{f6}ng:", "This key is not known."),
    ] {
        let answer = send(sign_in_form(&gateway, key)).await;
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert!(answer.text.contains(text), "{}", answer.text);
    }
    // A valid key beside the wrong one changes nothing.
    let beside = sign_in_form(&gateway, "wrong").header("x-api-key", "ada-secret");
    let slowed = send(beside).await;
    assert_eq!(slowed.status, 429, "{}", slowed.text);
    assert!(slowed.header("retry-after").parse::<u64>().unwrap() > 3000);
    assert!(
        slowed.text.contains("action=\"/sign-in\""),
        "{}",
        slowed.text
    );
    let by_header = remote(&gateway, "/status/overview").bearer_auth("wrong");
    assert_eq!(send(by_header).await.status, 429);
    for (reason, number) in [("unknown", 4.0), ("expired", 1.0)] {
        let labels = [reason];
        let failed = gateway.sample("llamatower_failed_keys_total", &labels);
        assert_eq!(failed.await, Some(number), "{reason}");
    }
    let refused = |line: &Value| line["message"] == "a sign-in was refused";
    gateway.logged("a refused sign-in", refused).await;
    assert_eq!(sign_in(&gateway, "ben-secret").await.0, 303);
}

#[tokio::test]
async fn without_administrators_keys_other_machines_get_no_page() {
    let sim = tiny().await;
    let gateway = gateway(&sim, &[PROXIES]).await;
    let refused = browse(&gateway, None).await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text.contains("LLAMATOWER_ADMIN_KEYS"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn the_page_allows_scripts_of_its_own_and_nothing_else() {
    let sim = sim_with(llamatower_sim::ModelSpec::new("tiny")).await;
    let gateway = gateway(&sim, &[]).await;
    for path in ["/", "/page.js", "/uplot.js", "/page.css", "/icon.svg"] {
        let page = reqwest::get(format!("{}{path}", gateway.admin_url()))
            .await
            .unwrap();
        assert_eq!(page.status(), 200, "{path}");
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = page.text().await.unwrap();
        if path == "/" {
            assert!(!text.contains("://"), "a request to another host");
            assert!(
                !text.contains("style=") && !text.contains(" onclick"),
                "inline code"
            );
        }
    }
    assert_eq!(
        send(gateway.admin_post("/status/overview")).await.status,
        405
    );
    assert_eq!(gateway.admin_page("/nowhere").await.status, 404);
}

#[tokio::test]
async fn the_page_is_told_why_usage_is_not_kept() {
    let sim = tiny().await;
    let nowhere = ("LLAMATOWER_STATE_DIR", "/proc/llamatower");
    let gateway = Gateway::start_up(&[&sim], &[nowhere]).await;
    let page = reqwest::get(format!("{}/status/events", gateway.admin_url()));
    let (_, state) = event(page.await.unwrap(), "state", |_| true).await;
    assert_eq!(state["is_kept"], false);
    let problem = state["problem"].as_str().unwrap();
    assert!(problem.contains("/proc/llamatower"), "{problem}");
}
