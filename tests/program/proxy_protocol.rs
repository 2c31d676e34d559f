//! The PROXY protocol from real proxies.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;

use tempfile::NamedTempFile;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::harness::{Gateway, run, send, tiny, until};

const TRUSTED: (&str, &str) = ("LLAMATOWER_TRUSTED_PROXIES", "127.0.0.1");
const REQUIRED: (&str, &str) = ("LLAMATOWER_PROXY_PROTOCOL", "required");

/// HAProxy in front of a gateway, and its address; `None` if it is not installed.
async fn haproxy(gateway: &Gateway, option: &str) -> Option<(Child, NamedTempFile, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let file = NamedTempFile::new().unwrap();
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         listen llamatower\n bind {address}\n option httpchk GET /health\n \
         server gateway {} {option} check inter 100ms check-send-proxy\n",
        gateway.socket_address()
    );
    std::fs::write(file.path(), config).unwrap();
    let started = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(file.path())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn();
    let Ok(child) = started else {
        eprintln!("skipped: haproxy is not installed");
        return None;
    };
    until("HAProxy listens", async || {
        TcpStream::connect(&address).await.is_ok()
    })
    .await;
    Some((child, file, address))
}

#[tokio::test]
async fn behind_haproxy_the_address_of_the_client_is_known() {
    let sim = tiny().await;
    for option in [
        "send-proxy-v2",
        "send-proxy",
        "send-proxy-v2 proxy-v2-options unique-id,crc32c",
    ] {
        let gateway = Gateway::start_up(&[&sim], &[TRUSTED, REQUIRED]).await;
        let Some((_haproxy, _file, address)) = haproxy(&gateway, option).await else {
            return;
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .local_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5)))
            .build()
            .unwrap();
        let request = client.get(format!("http://{address}/api/tags"));
        let answer = send(request.header("x-forwarded-for", "203.0.113.9")).await;
        assert_eq!(answer.status, 200, "{option}: {}", answer.text);
        let line = gateway
            .logged("the request", |line| line["route"] == "/api/tags")
            .await;
        assert_eq!(line["client"], "127.0.0.5", "{option}: {line}");
        let closed = gateway.count_logged(|line| {
            let message = line["message"].as_str();
            message.is_some_and(|text| text.starts_with("closed a connection"))
        });
        assert_eq!(closed, 0, "{option}: the health checks are accepted");
    }
}

#[tokio::test]
async fn a_connection_past_the_proxy_is_closed_with_a_log_line_and_operators_need_no_header() {
    let sim = tiny().await;
    let trusted = ("LLAMATOWER_TRUSTED_PROXIES", "10.0.0.1");
    let gateway = Gateway::start_up(&[&sim], &[trusted, REQUIRED]).await;
    assert!(gateway.get("/api/tags").send().await.is_err());
    let line = gateway
        .logged("the closed connection", |line| {
            let message = line["message"].as_str();
            message.is_some_and(|text| text.starts_with("closed a connection"))
        })
        .await;
    assert_eq!(
        (&line["level"], &line["peer"]),
        (&"WARN".into(), &"127.0.0.1".into())
    );
    let health = gateway.admin_page("/health").await;
    assert_eq!(health.status, 200);
    let operators = gateway.admin_url();
    let listen = operators.strip_prefix("http://").unwrap();
    let settings = [trusted, REQUIRED, ("LLAMATOWER_ADMIN_LISTEN", listen)];
    let checked = run(&["healthcheck"], &settings).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[tokio::test]
async fn it_is_not_required_without_proxies() {
    let checked = run(&["check"], &[REQUIRED]).await;
    assert_eq!(checked.code, Some(2));
    assert!(checked.stderr.contains(TRUSTED.0), "{}", checked.stderr);
}
