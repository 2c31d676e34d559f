//! Two gateways that share limits, usage and cordons through Redis, or divide the limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use llamatower_sim::SimHandle;
use serde_json::{Value, json};

use crate::harness::{
    ADA_AND_BOB, Answer, Dns, Gateway, Redis, chat, eventually, free_port, long_stream, run, send,
    slow_way_to, tiny, until, with, within_limit,
};

pub(crate) const REDIS: &str = "LLAMATOWER_REDIS_URL";
const RATE: &str = "LLAMATOWER_KEY_RATE_LIMIT";
pub(crate) const KEYS: (&str, &str) = ADA_AND_BOB;
/// Other tests use the processors too, so a usual response may take long.
pub(crate) const PATIENT: (&str, &str) = ("LLAMATOWER_REDIS_TIMEOUT", "2s");

/// Waits until the gateway is connected and knows that there are two.
pub(crate) async fn until_two(gateway: &Gateway) {
    until_sharing(gateway, "two gateways", |sharing| {
        sharing["gateways"] == 2 && sharing["redis"]["is_connected"] != false
    })
    .await;
}

pub(crate) async fn until_sharing(gateway: &Gateway, what: &str, is_it: impl Fn(&Value) -> bool) {
    until(what, async || is_it(&sharing(gateway).await)).await;
}

pub(crate) async fn sharing(gateway: &Gateway) -> Value {
    gateway.admin_page("/status").await.json()["sharing"].clone()
}

pub(crate) async fn two(sim: &SimHandle, redis: &str, settings: &[(&str, &str)]) -> [Gateway; 2] {
    let mut all = vec![(REDIS, redis)];
    all.extend(settings);
    let gateways = [
        Gateway::start_up(&[sim], &all).await,
        Gateway::start_up(&[sim], &all).await,
    ];
    for gateway in &gateways {
        until_two(gateway).await;
    }
    gateways
}

async fn status(gateway: &Gateway) -> u16 {
    gateway.post("/api/chat", &chat()).await.status
}

/// How many of these requests to both gateways pass; the others are refused with this status.
async fn passed(gateways: &[Gateway; 2], requests: usize, refusal: u16) -> usize {
    let asking = (0..requests).map(|number| status(&gateways[number % 2]));
    let statuses = join_all(asking).await;
    let known = |status: &u16| [200, refusal].contains(status);
    assert!(statuses.iter().all(known), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

pub(crate) async fn ask(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    let request = gateway.post_request("/api/chat", body);
    send(request.bearer_auth(format!("{key}-secret"))).await
}

/// The calls of Redis for a limit of requests with this result.
async fn calls(gateway: &Gateway, result: &str) -> f64 {
    calls_to(gateway, "take", result).await
}

async fn calls_to(gateway: &Gateway, operation: &str, result: &str) -> f64 {
    let operation = format!("operation=\"{operation}\"");
    let labels = [&*operation, &format!("result=\"{result}\"")];
    let count = gateway.sample("llamatower_redis_call_seconds_count", &labels);
    count.await.unwrap_or(0.0)
}

/// Limits of all kinds that a request of a key has.
const ALL_LIMITS: [(&str, &str); 3] = [
    ("LLAMATOWER_RATE_LIMIT", "1000/h"),
    (RATE, "100/h"),
    ("LLAMATOWER_KEY_TOKEN_LIMIT", "5000/minute,90000/day"),
];

#[tokio::test]
async fn a_request_with_all_limits_asks_redis_once_and_is_answered_as_without() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let mut settings = vec![KEYS, PATIENT];
    settings.extend(ALL_LIMITS);
    let without = Gateway::start_up(&[&sim], &settings).await;
    let url = redis.url();
    settings.push((REDIS, &url));
    let with = Gateway::start_up(&[&sim], &settings).await;
    with.logged("the connection", |line| {
        line["message"].to_string().contains("Redis is connected")
    })
    .await;
    // Without the times until a reset, which differ.
    let fields = |answer: &Answer| {
        let all = answer.headers.get_all("ratelimit").iter();
        let all = all.map(|field| field.to_str().unwrap().split(";t=").next().unwrap());
        (answer.status, all.map(str::to_owned).collect::<Vec<_>>())
    };
    for number in 1..=102 {
        let expected = ask(&without, "ada", &chat()).await;
        let found = ask(&with, "ada", &chat()).await;
        assert_eq!(fields(&found).0, fields(&expected).0, "{number}");
        let names = |answer: &Answer| fields(answer).1.len();
        assert_eq!(names(&found), names(&expected), "{number}");
        if number == 1 || expected.status == 429 {
            assert_eq!(fields(&found), fields(&expected), "{number}");
            let text = |answer: &Answer| answer.text.split("try again").next().unwrap().to_owned();
            assert!(expected.status == 200 || text(&found) == text(&expected));
        }
    }
    assert_eq!(calls_to(&with, "admit", "answered").await, 102.0);
    for other in ["take", "reserve"] {
        assert_eq!(calls_to(&with, other, "answered").await, 0.0, "{other}");
    }
}

#[tokio::test]
async fn limits_of_all_kinds_count_once_for_two_gateways() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let long = with(chat(), json!({"options": {"num_predict": 5}}));
    for (limit, expected) in [
        (("LLAMATOWER_RATE_LIMIT", "100/h"), 100),
        ((RATE, "100/h"), 100),
    ] {
        let mut settings = vec![KEYS, PATIENT];
        settings.extend(ALL_LIMITS.iter().filter(|(name, _)| *name != limit.0));
        settings.push(limit);
        let gateways = two(&sim, &redis.url(), &settings).await;
        let asking = (0..200).map(|number| ask(&gateways[number % 2], "ada", &long));
        let answers = join_all(asking).await;
        let passed = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(passed, expected, "{limit:?}");
        redis.call(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn a_limit_of_requests_counts_once_for_two_gateways() {
    let Some(mut redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    for limit in [RATE, "LLAMATOWER_RATE_LIMIT"] {
        let settings = [(limit, "100/h"), PATIENT];
        let gateways = two(&sim, &redis.url(), &settings).await;
        let count = passed(&gateways, 160, 429).await;
        assert!((98..=102).contains(&count), "{limit}: {count} of 100");
        // A Redis without its data lets the burst pass once more.
        redis.call(&["FLUSHALL"]).await;
        let count = passed(&gateways, 160, 429).await;
        assert!(
            (98..=102).contains(&count),
            "{limit}: {count} after a flush"
        );
        redis.stop().await;
        for gateway in &gateways {
            // Until a gateway knows that Redis is gone, it may send its next request there.
            until_sharing(gateway, "the end of Redis", |sharing| {
                sharing["redis"]["is_connected"] == false
            })
            .await;
        }
        redis.start_again().await;
        for gateway in &gateways {
            until_two(gateway).await;
        }
        let count = passed(&gateways, 160, 429).await;
        assert!(
            (98..=102).contains(&count),
            "{limit}: {count} after a restart"
        );
    }
}

#[tokio::test]
async fn a_token_budget_counts_once_for_two_gateways() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let settings = [KEYS, ("LLAMATOWER_KEY_TOKEN_LIMIT", "60/day"), PATIENT];
    let gateways = two(&sim, &redis.url(), &settings).await;
    let long = with(chat(), json!({"options": {"num_predict": 40}}));
    let first = ask(&gateways[0], "ada", &long).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let left = |answer: &Answer| {
        let field = answer.header("ratelimit").to_owned();
        let left = field.split("r=").nth(1).unwrap().split(';').next();
        left.unwrap().parse::<u64>().unwrap()
    };
    let used = within_limit("the settlement", async {
        loop {
            // It reserves little, which is given back.
            let none = with(chat(), json!({"messages": []}));
            let answer = ask(&gateways[1], "ada", &none).await;
            if answer.status == 429 || left(&answer) < left(&first) {
                return answer;
            }
        }
    });
    used.await;
    while ask(&gateways[0], "ada", &chat()).await.status == 200 {}
    let refusal = ask(&gateways[1], "ada", &chat()).await;
    assert_eq!(refusal.status, 429, "{}", refusal.text);
    assert_eq!(ask(&gateways[1], "bob", &chat()).await.status, 200);
    for gateway in &gateways {
        let used = gateway.sample(
            "llamatower_token_budget_used",
            &["llamatower_identity=\"ada\""],
        );
        assert!(
            used.await.unwrap() >= 40.0,
            "both know what was used in sum"
        );
    }
}

#[tokio::test]
async fn usage_is_the_sum_of_two_gateways_and_of_earlier_ones() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let gateways = two(&sim, &redis.url(), &[KEYS, PATIENT]).await;
    for gateway in &gateways {
        assert_eq!(ask(gateway, "ada", &chat()).await.status, 200);
    }
    let requests = async |gateway: &Gateway| {
        let page = gateway.admin_page("/status/usage?by=key").await.json();
        assert_eq!(page["is_of_all_gateways"], true, "{page}");
        page["rows"][0]["requests"].as_u64()
    };
    let until_sum = async |gateway: &Gateway, number: u64| {
        until("the sum", async || requests(gateway).await == Some(number)).await;
    };
    for gateway in &gateways {
        until_sum(gateway, 2).await;
    }
    // A batch that is sent again after an outage of hours does not count twice.
    let pattern = "*usage:batch*";
    let marks = redis.call(&["--scan", "--pattern", pattern]).await;
    assert_eq!(marks.lines().count(), 2, "one for each gateway: {marks}");
    for mark in marks.lines() {
        let ttl = redis.call(&["PTTL", mark]).await;
        assert!(ttl.trim().parse::<u64>().unwrap() > 24 * 60 * 60 * 1000);
    }
    let [first, second] = gateways;
    assert_eq!(ask(&first, "ada", &chat()).await.status, 200);
    // What it has not sent yet is sent at the end.
    assert_eq!(first.terminate().await, Some(0));
    until_sum(&second, 3).await;
    // Without its data it no longer knows what others have counted.
    redis.call(&["FLUSHALL"]).await;
    let page = second.admin_page("/status/usage?by=key").await.json();
    assert_eq!(page["is_of_all_gateways"], false, "{page}");
    let problem = page["redis_problem"].as_str().unwrap();
    assert!(problem.contains("less usage"), "{problem}");
    tells_that_it_is_of_one_gateway(&second, problem).await;
    redis.signal("STOP").await;
    let page = second.admin_page("/status/usage?by=key").await.json();
    assert_eq!(page["is_of_all_gateways"], false);
    assert!(page["redis_problem"].is_string(), "{page}");
    assert_eq!(page["rows"][0]["requests"], 1, "its own");
    tells_that_it_is_of_one_gateway(&second, "").await;
}

/// The table says why its sums are not those of all gateways, and there is no CSV of them.
async fn tells_that_it_is_of_one_gateway(gateway: &Gateway, problem: &str) {
    let csv = gateway.admin_page("/status/usage?format=csv").await;
    assert_eq!(csv.status, 503, "{}", csv.text);
    let url = gateway.admin_url();
    let csv = run(&["usage", "--csv", "--admin-url", &url], &[]).await;
    assert_eq!((csv.code, &*csv.stdout), (Some(1), ""));
    let table = run(&["usage", "--admin-url", &url], &[]).await;
    for text in [&csv.stderr, &table.stdout] {
        assert!(
            text.contains("of all gateways") && text.contains(problem),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_server_is_cordoned_at_both_gateways() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let [one, other] = two(&sim, &redis.url(), &[PATIENT]).await;
    let until_cordoned = async |gateway: &Gateway, expected: bool| {
        until("the cordon", async || {
            let page = gateway.admin_page("/status").await.json();
            page["backends"][0]["is_cordoned"] == expected
        })
        .await;
    };
    let name = sim.addr();
    for (from, to, verb, expected) in [
        (&one, &other, "cordon", true),
        (&other, &one, "uncordon", false),
        (&other, &one, "cordon", true),
    ] {
        let order = send(from.admin_post(&format!("/backends/{name}/{verb}"))).await;
        assert_eq!(order.status, 200, "{}", order.text);
        until_cordoned(to, expected).await;
    }
    redis.call(&["FLUSHALL"]).await;
    let third = Gateway::start_up(&[&sim], &[(REDIS, &redis.url()), PATIENT]).await;
    until_cordoned(&third, true).await;
}

/// What requests get while Redis does not answer, with this setting.
async fn without_an_answer(redis: &Redis, address: SocketAddr, choice: &str) -> (usize, u16) {
    let sim = tiny().await;
    let settings = [
        (RATE, "20/h"),
        ("LLAMATOWER_REDIS_DOWN_RATES", choice),
        PATIENT,
    ];
    let gateways = two(&sim, &format!("redis://{address}"), &settings).await;
    redis.signal("STOP").await;
    // The first of each notices it.
    join_all(gateways.iter().map(status)).await;
    let refusal = if choice == "closed" { 503 } else { 429 };
    let before = [
        calls(&gateways[0], "late").await,
        calls(&gateways[1], "late").await,
    ];
    let began = Instant::now();
    let count = passed(&gateways, 40, refusal).await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "none waits: {:?}",
        began.elapsed()
    );
    for (gateway, before) in gateways.iter().zip(before) {
        assert!(calls(gateway, "not_sent").await >= 20.0);
        assert_eq!(calls(gateway, "late").await, before);
        let state = sharing(gateway).await;
        assert_eq!(state["redis"]["is_connected"], false);
        assert!(
            state["redis"]["problem"]
                .as_str()
                .unwrap()
                .contains("no response"),
            "{state}"
        );
        gateway
            .logged("the failure", |line| {
                line["level"] == "WARN"
                    && line["message"]
                        .to_string()
                        .contains("Redis does not answer")
            })
            .await;
    }
    redis.signal("CONT").await;
    for gateway in &gateways {
        until_two(gateway).await;
    }
    (count, refusal)
}

#[tokio::test]
async fn while_redis_is_stopped_requests_are_treated_as_the_setting_says() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    for (choice, expected) in [("share", 18), ("open", 40), ("closed", 0)] {
        let (count, _) = without_an_answer(&redis, redis.address(), choice).await;
        assert_eq!(
            count, expected,
            "{choice}: each has a half of 20, and one was used"
        );
    }
}

#[tokio::test]
async fn a_slow_redis_adds_at_most_its_time_out_once() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let slow = slow_way_to(redis.address(), Duration::from_millis(200)).await;
    let url = format!("redis://{slow}");
    let gateway = Gateway::start_up(&[&sim], &[(REDIS, &url), (RATE, "1000/h")]).await;
    gateway
        .logged("the failure", |line| {
            line["message"]
                .to_string()
                .contains("Redis does not answer")
        })
        .await;
    for _ in 0..20 {
        assert_eq!(status(&gateway).await, 200);
    }
    assert_eq!(calls(&gateway, "not_sent").await, 20.0);
    assert_eq!(calls(&gateway, "late").await, 0.0);
}

#[tokio::test]
async fn a_redis_without_memory_is_told_and_does_not_stop_requests() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let gateways = two(&sim, &redis.url(), &[(RATE, "20/h"), PATIENT]).await;
    redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(
        passed(&gateways, 40, 429).await,
        20,
        "each has a half of 20"
    );
    for gateway in &gateways {
        let state = sharing(gateway).await;
        assert_eq!(state["redis"]["is_connected"], true);
        assert!(
            state["redis"]["problem"].as_str().unwrap().contains("OOM"),
            "{state}"
        );
    }
    redis.call(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(passed(&gateways, 40, 429).await, 20, "a bucket in Redis");
}

#[tokio::test]
async fn all_keys_in_redis_have_the_prefix_and_expire_and_no_secret_is_shown() {
    let Some(redis) = Redis::start(&["--requirepass", "hush"]).await else {
        return;
    };
    let sim = tiny().await;
    let url = format!("redis://:hush@{}", redis.address());
    let settings = [
        KEYS,
        (RATE, "100/h"),
        ("LLAMATOWER_RATE_LIMIT", "100/h"),
        (
            "LLAMATOWER_KEY_TOKEN_LIMIT",
            "1000/minute,5000/day,90000/month",
        ),
        ("LLAMATOWER_REDIS_PREFIX", "mine:"),
        PATIENT,
    ];
    let gateways = two(&sim, &url, &settings).await;
    let name = sim.addr();
    let order = gateways[0].admin_post(&format!("/backends/{name}/cordon"));
    assert_eq!(ask(&gateways[0], "ada", &chat()).await.status, 200);
    assert_eq!(send(order).await.status, 200);
    let with_password = |more: &[&str]| {
        let arguments: Vec<String> = ["--no-auth-warning", "-a", "hush"]
            .iter()
            .chain(more)
            .map(|text| (*text).to_owned())
            .collect();
        arguments
    };
    let call = async |more: &[&str]| {
        let arguments = with_password(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        redis.call(&arguments).await
    };
    let kinds = [
        "rate:key",
        "rate:global",
        "tokens:key",
        "usage:",
        "cordons:",
        "gateways:",
    ];
    let keys = eventually("all kinds of keys", async || {
        let keys = call(&["--scan"]).await;
        let has = |kind: &&str| keys.contains(&format!("mine:{kind}"));
        kinds.iter().all(has).then_some(keys)
    })
    .await;
    for key in keys.lines() {
        assert!(key.starts_with("mine:"), "{key}");
        assert!(!key.contains("ada"), "{key} names a client");
        let ttl: i64 = call(&["PTTL", key]).await.trim().parse().unwrap();
        // It can have expired since the scan.
        assert!(ttl > 0 || ttl == -2, "{key} has no expiry");
    }
    for gateway in &gateways {
        assert!(!gateway.has_logged(|line| line.to_string().contains("hush")));
        let status = gateway.admin_page("/status").await.text;
        assert!(!status.contains("hush"), "{status}");
    }
    let checked = run(&["check"], &[(REDIS, &url)]).await;
    assert!(!checked.stdout.contains("hush") && checked.stdout.contains("[secret]"));
    let wrong = run(&["check"], &[(REDIS, "redis://:hush@a/b/c")]).await;
    assert_eq!(wrong.code, Some(2));
    assert!(
        !wrong.stderr.contains("hush") && wrong.stderr.contains(REDIS),
        "{}",
        wrong.stderr
    );
}

#[tokio::test]
async fn without_redis_gateways_divide_limits_by_the_addresses_of_their_service() {
    let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    let dns = Dns::start(Dns::with_addresses(&[ip(1), ip(2)])).await;
    let servers = dns.setting();
    let sim = tiny().await;
    let settings = [
        ("LLAMATOWER_PEERS", "peers.test"),
        ("LLAMATOWER_DNS_SERVERS", &*servers),
        ("LLAMATOWER_DNS_MIN_TTL", "100ms"),
        (RATE, "20/h"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    until_two(&gateway).await;
    let mut passed = 0;
    while status(&gateway).await == 200 {
        passed += 1;
    }
    assert_eq!(passed, 10, "a half");
    assert_eq!(gateway.metric("llamatower_gateways").await, 2.0);
    dns.change(Dns::with_addresses(&[ip(1)]));
    gateway
        .logged("the change", |line| {
            line["message"] == "the number of gateways has changed" && line["gateways"] == 1
        })
        .await;
    assert_eq!(sharing(&gateway).await["gateways"], 1);
}

#[tokio::test]
async fn doctor_checks_redis() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = tiny().await;
    let examine = async |redis: &str| {
        let settings = [("OLLAMA_URL", &*sim.url()), (REDIS, redis), PATIENT];
        let report = run(&["doctor", "--json"], &settings).await;
        let report: Value = serde_json::from_str(&report.stdout).unwrap();
        report["findings"].to_string()
    };
    let fine = examine(&redis.url()).await;
    assert!(fine.contains("redis_ready"), "{fine}");
    redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = examine(&redis.url()).await;
    assert!(
        full.contains("redis_refuses") && full.contains("OOM"),
        "{full}"
    );
    let gone = examine("redis://127.0.0.1:1").await;
    assert!(gone.contains("redis_unreachable"), "{gone}");
}

#[tokio::test]
async fn redis_can_be_reached_over_tls_by_a_user_with_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file("certificate.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let port = free_port();
    let port_text = port.to_string();
    let arguments = [
        &["--tls-port", &*port_text][..],
        &["--tls-cert-file", &certificate, "--tls-key-file", &key],
        &["--tls-auth-clients", "no"],
        &["--user", "gateway", "on", ">hush", "~llamatower:*", "+@all"],
    ];
    let Some(_redis) = Redis::start(&arguments.concat()).await else {
        return;
    };
    let sim = tiny().await;
    let url = file("url", format!("rediss://gateway:hush@127.0.0.1:{port}/0\n"));
    let name = "LLAMATOWER_REDIS_URL_FILE";
    let trusted = [
        (name, &*url),
        ("SSL_CERT_FILE", &*certificate),
        (RATE, "5/h"),
        PATIENT,
    ];
    let gateway = Gateway::start_up(&[&sim], &trusted).await;
    gateway
        .logged("the connection", |line| {
            line["message"].to_string().contains("Redis is connected")
        })
        .await;
    assert_eq!(status(&gateway).await, 200);
    assert_eq!(calls(&gateway, "answered").await, 1.0);
    let untrusted = Gateway::start_up(&[&sim], &[(name, &*url), (RATE, "5/h"), PATIENT]).await;
    let warning = untrusted
        .logged("the failure", |line| {
            line["message"]
                .to_string()
                .contains("Redis does not answer")
        })
        .await;
    assert!(
        warning["problem"].to_string().contains("certificate"),
        "{warning}"
    );
    assert_eq!(status(&untrusted).await, 200);
}

/// The registered gateways, once these many are.
async fn registered(gateway: &Gateway, number: usize) -> Vec<Value> {
    eventually("the registered gateways", async || {
        let rows = sharing(gateway).await["registered"].as_array().cloned();
        rows.filter(|rows| rows.len() == number)
    })
    .await
}

#[tokio::test]
async fn each_gateway_tells_which_others_there_are_and_what_they_do() {
    let Some(redis) = Redis::start(&[]).await else {
        return;
    };
    let sim = long_stream().await;
    let [one, other] = two(&sim, &redis.url(), &[("LLAMATOWER_SLOTS", "1"), PATIENT]).await;
    let rows = registered(&one, 2).await;
    let of = |rows: &[Value], is_this: bool| {
        let mut rows = rows.iter().filter(|row| row["is_this"] == is_this);
        rows.next().unwrap().clone()
    };
    let address = |gateway: &Gateway| json!(gateway.url("").trim_start_matches("http://"));
    for (gateway, is_this) in [(&one, true), (&other, false)] {
        let row = of(&rows, is_this);
        assert_eq!(row["address"], address(gateway), "{row}");
        assert_eq!(row["version"], env!("CARGO_PKG_VERSION"), "{row}");
        assert_eq!(row["is_draining"], false, "{row}");
        assert!(
            row["host"].as_str().is_some_and(|host| !host.is_empty()),
            "{row}"
        );
    }
    // There is one slot, so the second request waits.
    let stream = with(chat(), json!({"stream": true}));
    let running = other.post_request("/api/chat", &stream).send();
    let _running = running.await.unwrap();
    let waiting = tokio::spawn(send(other.post_request("/api/chat", &chat())));
    until("what the other does", async || {
        let row = of(&registered(&one, 2).await, false);
        (&row["in_flight"], &row["waiting"]) == (&json!(2), &json!(1))
    })
    .await;
    waiting.abort();
    drop(other);
    let rows = registered(&one, 1).await;
    assert_eq!(rows[0]["is_this"], true);
    // What others write does no harm.
    let keys = redis
        .call(&["--scan", "--pattern", "llamatower:gateways*"])
        .await;
    let key = |kind: &str| {
        let mut keys = keys.lines().filter(|key| key.contains(kind));
        keys.next().unwrap().to_owned()
    };
    let never = "99999999999999";
    redis.call(&["ZADD", &key("gateways:{"), never, "x"]).await;
    redis
        .call(&["HSET", &key("gateways:about"), "x", "[no JSON"])
        .await;
    let row = of(&registered(&one, 2).await, false);
    assert_eq!(
        (&row["id"], &row["host"]),
        (&json!("x"), &Value::Null),
        "{row}"
    );
}
