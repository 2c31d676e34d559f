//! Servers that operators take out of the choice.

use llamatower_sim::SimHandle;
use serde_json::{Value, json};

use crate::harness::{
    ADMIN_BEN, Answer, Gateway, Redis, chat, long_stream, run, send, tiny, with, within_limit,
};
use crate::replicas::two;

fn name(sim: &SimHandle) -> String {
    sim.addr().to_string()
}

/// `POST /backends/NAME/VERB` on the admin listener.
async fn order(gateway: &Gateway, sim: &SimHandle, verb: &str) -> Answer {
    send(gateway.admin_post(&format!("/backends/{}/{verb}", name(sim)))).await
}

async fn row(gateway: &Gateway, sim: &SimHandle) -> Value {
    let status = gateway.admin_page("/status").await.json();
    let mut rows = status["backends"].as_array().unwrap().iter();
    rows.find(|row| row["name"] == name(sim)).unwrap().clone()
}

fn chats(sim: &SimHandle) -> usize {
    let requests = sim.requests();
    requests
        .iter()
        .filter(|seen| seen.path() == "/api/chat")
        .count()
}

#[tokio::test]
async fn a_cordoned_server_gets_no_new_requests_until_it_is_uncordoned() {
    let (one, other) = (tiny().await, tiny().await);
    let gateway = Gateway::start_up(&[&one, &other], &[]).await;
    let cordoned = order(&gateway, &one, "cordon").await;
    assert_eq!(cordoned.status, 200, "{}", cordoned.text);
    let expected = json!({"name": name(&one), "is_cordoned": true, "in_flight": 0});
    assert_eq!(cordoned.json(), expected);
    assert_eq!(row(&gateway, &one).await["is_cordoned"], true);
    assert_eq!(row(&gateway, &other).await["is_cordoned"], false);
    for _ in 0..6 {
        assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    }
    assert_eq!((chats(&one), chats(&other)), (0, 6));
    order(&gateway, &one, "uncordon").await;
    order(&gateway, &other, "cordon").await;
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 200);
    assert_eq!((chats(&one), chats(&other)), (1, 6));
}

#[tokio::test]
async fn a_model_that_only_cordoned_servers_have_is_refused_and_streams_go_on() {
    let (one, other) = (long_stream().await, tiny_named_other().await);
    let gateway = Gateway::start_up(&[&one, &other], &[("LLAMATOWER_SLOTS", "1")]).await;
    let stream = with(
        chat(),
        json!({"stream": true, "options": {"num_predict": 40}}),
    );
    let mut running = gateway
        .post_request("/api/chat", &stream)
        .send()
        .await
        .unwrap();
    assert!(running.chunk().await.unwrap().is_some());
    let waiting = tokio::spawn(send(gateway.post_request("/api/chat", &chat())));
    within_limit("a waiting request", async {
        while gateway.admin_page("/status").await.json()["queue"][0]["waiting"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    order(&gateway, &one, "cordon").await;
    for refused in [
        within_limit("the end of the wait", waiting).await.unwrap(),
        gateway.post("/api/chat", &chat()).await,
        gateway.post("/api/show", &json!({"model": "tiny"})).await,
    ] {
        assert_eq!(refused.status, 503, "{}", refused.text);
        let reason = format!("are cordoned by an operator ({})", name(&one));
        assert!(refused.text.contains(&reason), "{}", refused.text);
    }
    let mut rest = String::new();
    while let Some(chunk) = running.chunk().await.unwrap() {
        rest.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(rest.contains("\"done\":true"), "{rest}");
    assert_eq!(chats(&other), 0, "it does not have the model");
}

/// A server without `tiny`.
async fn tiny_named_other() -> SimHandle {
    crate::harness::sim_with(llamatower_sim::ModelSpec::new("other")).await
}

#[tokio::test]
async fn a_drain_waits_for_the_requests_in_flight() {
    let (one, other) = (long_stream().await, long_stream().await);
    let gateway = Gateway::start_up(&[&one, &other], &[]).await;
    order(&gateway, &other, "cordon").await;
    let stream = with(
        chat(),
        json!({"stream": true, "options": {"num_predict": 40}}),
    );
    let mut running = gateway
        .post_request("/api/chat", &stream)
        .send()
        .await
        .unwrap();
    assert!(running.chunk().await.unwrap().is_some());
    let (name, admin_url) = (name(&one), gateway.admin_url());
    let drain = ["drain", &name, "--admin-url", &admin_url];
    let all = async { while running.chunk().await.unwrap().is_some() {} };
    let (drained, ()) = tokio::join!(run(&drain, &[]), all);
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    let lines: Vec<_> = drained.stdout.lines().collect();
    let busy = format!("{name}: requests in flight: 1");
    assert_eq!(lines, [busy, format!("{name}: drained")]);
    assert_eq!(gateway.post("/api/chat", &chat()).await.status, 503);
    let back = run(&["uncordon", &name, "--admin-url", &admin_url], &[]).await;
    assert_eq!(back.stdout, format!("{name}: no longer cordoned\n"));
    let short = with(chat(), json!({"options": {"num_predict": 1}}));
    assert_eq!(gateway.post("/api/chat", &short).await.status, 200);
}

#[tokio::test]
async fn a_drain_tells_which_other_gateways_it_does_not_wait_for() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = long_stream().await;
    let [one, other] = two(&sim, &redis.url(), &[]).await;
    let stream = with(chat(), json!({"stream": true}));
    let running = other.post_request("/api/chat", &stream).send();
    let mut running = running.await.unwrap();
    assert!(running.chunk().await.unwrap().is_some());
    let (name, admin_url) = (name(&sim), one.admin_url());
    let drain = ["drain", &name, "--admin-url", &admin_url];
    let text = run(&drain, &[]).await;
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    let other_address = other.url("");
    for part in [
        &*format!("{name}: drained at this gateway; there is 1 other"),
        other_address.trim_start_matches("http://"),
        &format!("llamatower drain {name} --admin-url"),
    ] {
        assert!(text.stdout.contains(part), "{}", text.stdout);
    }
    let page = run(&[&drain[..], &["--json"]].concat(), &[]).await.stdout;
    let page: Value = serde_json::from_str(&page).unwrap();
    let told = (&page["in_flight"], &page["other_gateways"]);
    assert_eq!(told, (&json!(0), &json!(1)));
}

#[tokio::test]
async fn from_another_machine_it_needs_an_administrators_key() {
    let sim = tiny().await;
    let settings = [("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.1"), ADMIN_BEN];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let path = format!("/backends/{}/cordon", name(&sim));
    let remote = || {
        gateway
            .admin_post(&path)
            .header("x-forwarded-for", "10.0.0.7")
    };
    let refused = send(remote()).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(row(&gateway, &sim).await["is_cordoned"], false);
    assert_eq!(send(remote().bearer_auth("ben-secret")).await.status, 200);
    assert_eq!(row(&gateway, &sim).await["is_cordoned"], true);
}

#[tokio::test]
async fn unknown_servers_and_wrong_methods_are_refused() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    let unknown = run(
        &["cordon", "nowhere", "--admin-url", &gateway.admin_url()],
        &[],
    )
    .await;
    assert_eq!(unknown.code, Some(1));
    let expected = format!("there is no such backend; the backends are: {}", name(&sim));
    assert!(unknown.stderr.contains(&expected), "{}", unknown.stderr);
    let drain = ["drain", "nowhere", "--admin-url", &gateway.admin_url()];
    let drain = run(&drain, &[]).await;
    assert!(drain.stderr.contains("drain nowhere: "), "{}", drain.stderr);
    assert!(!drain.stderr.contains("cordon"), "{}", drain.stderr);
    let path = format!("/backends/{}/cordon", name(&sim));
    assert_eq!(gateway.admin_page(&path).await.status, 405);
    assert_eq!(row(&gateway, &sim).await["is_cordoned"], false);
}
