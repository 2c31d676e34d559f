use llamatower::edge::{EdgeConfig, Hosts, Origins};
use tower::service_fn;

use crate::support::{Running, echo, loopback};

#[test]
fn ollamas_own_origins_may_call() {
    let origins = Origins::default();
    for origin in [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:8080",
        "https://0.0.0.0",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://1x2y",
        "vscode-file://vscode-app",
        "HTTP://LOCALHOST:1",
    ] {
        assert!(origins.allows(origin), "{origin}");
    }
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhostx:1",
        "http://127.0.0.1.evil.example",
        "ftp://localhost",
        "null",
        "chrome-extension://abc",
    ] {
        assert!(!origins.allows(origin), "{origin}");
    }
}

#[test]
fn further_origins_may_contain_one_asterisk() {
    let origins = Origins::with([
        " https://Chat.example ",
        "https://*.corp.example",
        "http://10.0.0.1:*",
        "chrome-extension://*",
        "",
    ])
    .unwrap();
    for origin in [
        "https://chat.example",
        "https://a.corp.example",
        "http://10.0.0.1:9",
        "chrome-extension://abc",
        "http://localhost",
    ] {
        assert!(origins.allows(origin), "{origin}");
    }
    for origin in [
        "http://chat.example",
        "https://corp.example",
        "http://10.0.0.1",
    ] {
        assert!(!origins.allows(origin), "{origin}");
    }
    assert!(Origins::with(["*"]).unwrap().allows("null"));
    for entry in ["example.com", "https://*.*.x", "**"] {
        let error = Origins::with([entry]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{entry:?}")), "{error}");
    }
}

/// The status of a request with these fields, from an edge that is not on loopback.
async fn status_of(fields: &str) -> u16 {
    let config = EdgeConfig {
        listen: vec!["0.0.0.0:0".parse().unwrap()],
        ..EdgeConfig::default()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    let request = format!("GET / HTTP/1.0\r\n{fields}\r\n");
    edge.ask(&request).await.status
}

#[tokio::test]
async fn a_page_of_this_server_may_call() {
    let page = "Origin: https://gateway:3000\r\n";
    assert_eq!(
        status_of(&format!("{page}Host: gateway:3000\r\n")).await,
        200
    );
    assert_eq!(status_of(&format!("{page}Host: gateway\r\n")).await, 403);
    assert_eq!(status_of(page).await, 403);
}

#[tokio::test]
async fn a_request_of_two_origins_is_refused() {
    let origins = "Origin: http://localhost\r\nOrigin: https://evil.example\r\n";
    assert_eq!(status_of(origins).await, 403);
}

/// The status of a request to a loopback listener under this name.
async fn status_under(edge: &Running, host: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    edge.ask(&request).await.status
}

#[tokio::test]
async fn local_names_and_addresses_are_answered_on_loopback() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let machine = machine.trim();
    for host in [
        "",
        "localhost",
        "LOCALHOST:3000",
        "ollama.localhost",
        "printer.local:1",
        "db.internal",
        "host.docker.internal:3000",
        "127.0.0.1:3000",
        "127.9.9.9",
        "[::1]:3000",
        "[::1]",
        "0.0.0.0:1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1:80",
        "[fd00::1]:3000",
        "[::ffff:127.0.0.1]:1",
        machine,
        &format!("{}:3000", machine.to_uppercase()),
    ] {
        assert_eq!(status_under(&edge, host).await, 200, "{host:?}");
    }
}

#[tokio::test]
async fn foreign_names_and_addresses_are_refused_on_loopback() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    for host in [
        "x",
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "notlocalhost",
        "local",
        "8.8.8.8",
        "[2001:db8::1]:3000",
        "172.32.0.1",
        "gateway.evil.example",
    ] {
        assert_eq!(status_under(&edge, host).await, 403, "{host:?}");
    }
}

#[tokio::test]
async fn further_names_may_be_allowed_on_loopback() {
    let allowed = |entries: &[&str]| EdgeConfig {
        hosts: Hosts::with(entries).unwrap().into(),
        ..loopback()
    };
    let edge = Running::start(
        allowed(&["Chat.example", "*.corp.example", "2001:db8::1"]),
        service_fn(echo),
    )
    .await;
    for (host, status) in [
        ("chat.example", 200),
        ("CHAT.example:443", 200),
        ("chat.example.", 200),
        ("a.corp.example", 200),
        ("a.b.corp.example:80", 200),
        ("[2001:db8::1]:3000", 200),
        ("[2001:DB8:0:0::1]", 200),
        ("[2001:db8::2]", 403),
        ("localhost", 200),
        ("corp.example", 403),
        ("xcorp.example", 403),
        ("chat.example.evil.example", 403),
        ("x.chat.example", 403),
        ("evil.example", 403),
    ] {
        assert_eq!(status_under(&edge, host).await, status, "{host}");
    }
    for config in [
        allowed(&["*"]),
        EdgeConfig {
            hosts: Hosts::any().into(),
            ..loopback()
        },
    ] {
        let edge = Running::start(config, service_fn(echo)).await;
        assert_eq!(status_under(&edge, "evil.example").await, 200);
    }
}

#[test]
fn an_invalid_host_name_is_an_error() {
    for entry in [
        "",
        "https://chat.example",
        "chat.example:443",
        "a.*.example",
        "*example.com",
        "*.",
        "a b",
        "a..b",
        "**",
    ] {
        let error = Hosts::with([entry]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{entry:?}")), "{error}");
    }
}
