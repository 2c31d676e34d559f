//! A host name stands for all of its addresses, which can change.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use llamatower_sim::{ModelSpec, Sim, SimHandle};
use serde_json::Value;

use crate::harness::{Dns, End, Gateway, Zone, chat, load, send, within_limit};

const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// A server whose response takes a second, with the model in memory.
async fn sim_at(ip: IpAddr, port: u16) -> SimHandle {
    let model = ModelSpec::new("tiny")
        .with_slots(64)
        .with_pace(Duration::from_millis(20))
        .with_reply_tokens(50);
    let sim = Sim::builder().listen(SocketAddr::new(ip, port));
    let sim = sim.model(model).start().await.unwrap();
    load(&sim).await;
    sim
}

/// Two servers on different addresses with the same port.
async fn two_sims() -> (SimHandle, SimHandle) {
    let one = sim_at(ONE, 0).await;
    let two = sim_at(TWO, one.addr().port()).await;
    (one, two)
}

/// A gateway that is configured with the host name only.
async fn gateway(dns: &Dns, port: u16) -> Gateway {
    gateway_with(dns, port, &[]).await
}

async fn gateway_with(dns: &Dns, port: u16, more: &[(&str, &str)]) -> Gateway {
    let url = format!("http://ollama.models.internal:{port}");
    let servers = dns.setting();
    let mut settings = vec![
        ("OLLAMA_URL", &*url),
        ("LLAMATOWER_DNS_SERVERS", &*servers),
        ("LLAMATOWER_DNS_MIN_TTL", "50ms"),
    ];
    settings.extend(more);
    Gateway::start(&[], &settings).await
}

/// The same, once both servers have answered their first probe.
async fn gateway_with_both(dns: &Dns, one: &SimHandle, two: &SimHandle) -> Gateway {
    let gateway = gateway(dns, one.addr().port()).await;
    gateway.until_up(&[one, two]).await;
    gateway
}

async fn logged(gateway: &Gateway, message: &str, backend: &str) -> Value {
    let is_it = |line: &Value| line["message"] == message && line["backend"] == backend;
    gateway
        .logged(&format!("{message}: {backend}"), is_it)
        .await
}

/// The backend of one request.
async fn answering_backend(gateway: &Gateway) -> String {
    let answer = gateway.post("/api/chat", &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.text.contains("\"done\":true"), "{}", answer.text);
    answer.header("x-llamatower-backend").to_owned()
}

/// The backends of eight concurrent requests.
async fn answering_backends(gateway: &Gateway) -> BTreeSet<String> {
    let asked = (0..8).map(|_| answering_backend(gateway));
    let answered = futures_util::future::join_all(asked).await;
    answered.into_iter().collect()
}

fn names(addresses: &[SocketAddr]) -> BTreeSet<String> {
    addresses.iter().map(SocketAddr::to_string).collect()
}

#[tokio::test]
async fn a_cordon_of_an_address_is_kept_over_a_restart_until_the_address_leaves() {
    let (one, two) = two_sims().await;
    let dns = Dns::start(Dns::with_addresses(&[ONE, TWO])).await;
    let directory = tempfile::tempdir().unwrap();
    let kept = [("LLAMATOWER_STATE_DIR", directory.path().to_str().unwrap())];
    let name = two.addr().to_string();
    let is_cordoned = async |gateway: &Gateway| {
        let status = gateway.admin_page("/status").await.json();
        let mut rows = status["backends"].as_array().unwrap().iter();
        let row = rows.find(|row| row["name"] == *name);
        row.map(|row| row["is_cordoned"] == true)
    };
    let gateway = gateway_with(&dns, one.addr().port(), &kept).await;
    gateway.until_up(&[&one, &two]).await;
    let cordon = gateway.admin_post(&format!("/backends/{name}/cordon"));
    assert_eq!(send(cordon).await.status, 200);
    gateway.terminate().await;
    let gateway = gateway_with(&dns, one.addr().port(), &kept).await;
    gateway.until_up(&[&one, &two]).await;
    assert_eq!(is_cordoned(&gateway).await, Some(true));
    assert_eq!(answering_backends(&gateway).await, names(&[one.addr()]));
    dns.change(Dns::with_addresses(&[ONE]));
    logged(&gateway, "the backend has left", &name).await;
    assert_eq!(is_cordoned(&gateway).await, None);
    dns.change(Dns::with_addresses(&[ONE, TWO]));
    within_limit("the address is back", async {
        while is_cordoned(&gateway).await.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(is_cordoned(&gateway).await, Some(false));
}

#[tokio::test]
async fn a_host_name_gives_a_backend_for_each_address() {
    let (one, two) = two_sims().await;
    let dns = Dns::start(Dns::with_addresses(&[ONE, TWO])).await;
    let gateway = gateway_with_both(&dns, &one, &two).await;
    assert_eq!(
        answering_backends(&gateway).await,
        names(&[one.addr(), two.addr()])
    );
    let status = gateway.admin_page("/status").await.json();
    assert_eq!(status["backends"].as_array().unwrap().len(), 2, "{status}");
}

#[tokio::test]
async fn a_single_address_is_shown_with_its_host_name() {
    let one = sim_at(ONE, 0).await;
    let dns = Dns::start(Dns::with_addresses(&[ONE])).await;
    let port = one.addr().port();
    let gateway = gateway(&dns, port).await;
    let name = format!("ollama.models.internal:{port}");
    assert_eq!(answering_backend(&gateway).await, name);
}

#[tokio::test]
async fn a_new_address_is_used_and_a_removed_one_finishes_its_streams() {
    let (one, two) = two_sims().await;
    let dns = Dns::start(Dns::with_addresses(&[ONE])).await;
    let port = one.addr().port();
    let gateway = gateway(&dns, port).await;
    let mut stream = gateway.connect().await;
    stream.post("/api/chat", &chat()).await;
    assert_eq!(stream.head().await.status, 200);
    stream.chunk().await;

    dns.change(Dns::with_addresses(&[TWO]));
    logged(
        &gateway,
        "the backend has left",
        &format!("ollama.models.internal:{port}"),
    )
    .await;
    logged(
        &gateway,
        "the backend is up",
        &format!("ollama.models.internal:{port}"),
    )
    .await;
    let before = two.requests().len();
    answering_backends(&gateway).await;
    assert!(
        two.requests().len() >= before + 8,
        "all requests go to the new address"
    );

    let (rest, end) = stream.rest().await;
    assert!(rest.contains("\"done\":true"), "{rest}");
    assert_eq!(end, End::Clean);
}

#[tokio::test]
async fn a_new_address_gets_no_request_before_it_has_answered_a_probe() {
    let one = sim_at(ONE, 0).await;
    let port = one.addr().port();
    let dns = Dns::start(Dns::with_addresses(&[ONE])).await;
    let gateway = gateway(&dns, port).await;
    answering_backend(&gateway).await;
    dns.change(Dns::with_addresses(&[ONE, TWO]));
    let newcomer = SocketAddr::new(TWO, port).to_string();
    logged(&gateway, "the backend has joined", &newcomer).await;
    let old = one.addr().to_string();
    assert_eq!(
        answering_backends(&gateway).await,
        BTreeSet::from([old.clone()])
    );
    let retries = gateway.metric("llamatower_retries_total").await;
    assert_eq!(retries, 0.0, "no request was retried");

    let _two = sim_at(TWO, port).await;
    gateway.until_backend_up(&newcomer).await;
    assert_eq!(
        answering_backends(&gateway).await,
        BTreeSet::from([old, newcomer])
    );
}

#[tokio::test]
async fn names_depend_on_the_current_addresses_alone_and_a_cordon_stays_with_its_server() {
    let (one, two) = two_sims().await;
    let port = one.addr().port();
    let host = format!("ollama.models.internal:{port}");
    let dns = Dns::start(Dns::with_addresses(&[ONE])).await;
    let shown = async |gateway: &Gateway| {
        let status = gateway.admin_page("/status").await.json();
        let rows = status["backends"].as_array().unwrap().iter();
        let row = |row: &Value| {
            let name = row["name"].as_str().unwrap().to_owned();
            (name, row["is_cordoned"] == true)
        };
        rows.map(row).collect::<BTreeSet<_>>()
    };
    let earlier = gateway(&dns, port).await;
    assert_eq!(answering_backend(&earlier).await, host);
    let cordon = earlier.admin_post(&format!("/backends/{host}/cordon"));
    assert_eq!(send(cordon).await.status, 200);
    dns.change(Dns::with_addresses(&[ONE, TWO]));
    earlier.until_backend_up(&two.addr().to_string()).await;
    let later = gateway_with_both(&dns, &one, &two).await;
    let both = names(&[one.addr(), two.addr()]);
    let named = shown(&later).await.into_iter().map(|(name, _)| name);
    assert_eq!(named.collect::<BTreeSet<_>>(), both);
    let cordoned = [
        (one.addr().to_string(), true),
        (two.addr().to_string(), false),
    ];
    assert_eq!(shown(&earlier).await, BTreeSet::from(cordoned));
    dns.change(Dns::with_addresses(&[ONE]));
    logged(&earlier, "the backend has left", &two.addr().to_string()).await;
    assert_eq!(shown(&earlier).await, BTreeSet::from([(host, true)]));
}

#[tokio::test]
async fn a_name_that_fails_to_resolve_keeps_its_addresses() {
    let (one, two) = two_sims().await;
    let both = names(&[one.addr(), two.addr()]);
    let mut dns = Dns::start(Dns::with_addresses(&[ONE, TWO])).await;
    let gateway = gateway_with_both(&dns, &one, &two).await;
    assert_eq!(answering_backends(&gateway).await, both);
    for zone in [
        Zone::Refusal(ResponseCode::NXDomain),
        Zone::Refusal(ResponseCode::ServFail),
        Zone::Addresses(vec![]),
        Zone::Silence,
    ] {
        dns.change(zone.clone());
        dns.queried_again(2).await;
        assert_eq!(answering_backends(&gateway).await, both, "{zone:?}");
    }
    dns.change(Dns::with_addresses(&[TWO]));
    logged(&gateway, "the backend has left", &one.addr().to_string()).await;
    let host = format!("ollama.models.internal:{}", two.addr().port());
    assert_eq!(answering_backends(&gateway).await, BTreeSet::from([host]));
}

#[tokio::test]
async fn a_name_that_resolves_later_is_used() {
    let one = sim_at(ONE, 0).await;
    let dns = Dns::start(Zone::Refusal(ResponseCode::NXDomain)).await;
    let port = one.addr().port();
    let gateway = gateway(&dns, port).await;
    let refusal = gateway.post("/api/chat", &chat()).await;
    assert_eq!(refusal.status, 502, "{}", refusal.text);
    let message = refusal.json()["error"].as_str().unwrap().to_owned();
    assert!(message.contains("ollama.models.internal"), "{message}");
    dns.change(Dns::with_addresses(&[ONE]));
    within_limit("the backend to be found", async {
        while gateway.post("/api/chat", &chat()).await.status != 200 {}
    })
    .await;
}
