use std::process::Stdio;
use std::time::{Duration, Instant};

use llamatower::edge::EdgeConfig;
use tokio::net::TcpStream;
use tower::service_fn;

use crate::certificates::Folder;
use crate::support::{Running, TIME_LIMIT, echo, loopback, within_limit};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_connection_above_the_limit_gets_503() {
    let config = EdgeConfig {
        max_connections: 2,
        ..loopback()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    let mut clients = [edge.connect().await, edge.connect().await];
    for client in &mut clients {
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let refused = edge.ask(GET).await;
    assert_eq!(refused.status, 503);
    assert_eq!(
        refused.body,
        "{\"error\":\"too many connections (limit: LLAMATOWER_MAX_CONNECTIONS)\"}"
    );
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(edge.gauges.refused_connections(), 1);

    let [first, _second] = clients;
    drop(first);
    let start = Instant::now();
    while edge.ask(GET).await.status != 200 {
        assert!(start.elapsed() < TIME_LIMIT, "the place never became free");
    }
}

/// A probe must not take a process with many clients for dead. Nothing else passes by the limit.
#[tokio::test]
async fn above_the_limit_of_connections_health_alone_is_answered() {
    let config = EdgeConfig {
        max_connections: 1,
        ..loopback()
    };
    let edge = Running::start(config, service_fn(echo)).await;
    let mut client = edge.connect().await;
    client.send(GET).await;
    assert_eq!(client.answer().await.status, 200);

    let probe = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut both = edge.connect().await;
    both.send(format!("{probe}{GET}")).await;
    let answer = both.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(both.is_closed().await, "the second request is not served");
    assert_eq!(edge.gauges.refused_connections(), 0);

    let mut silent = edge.connect().await;
    assert_eq!(silent.answer().await.status, 503);
    assert_eq!(edge.ask(GET).await.status, 503);
    assert_eq!(edge.gauges.refused_connections(), 2);
}

/// The same with TLS. A probe may offer HTTP/2.
#[tokio::test]
async fn above_the_limit_of_connections_health_alone_is_answered_over_tls() {
    let folder = Folder::new();
    let config = EdgeConfig {
        max_connections: 2,
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    // Connections count before their handshake.
    let _held = [edge.connect().await, edge.connect().await];
    let client = folder.trusting().offering(&["h2", "http/1.1"]);

    let mut probe = client.connect(&edge).await;
    let chosen = probe.io.get_ref().1.alpn_protocol();
    assert_eq!(chosen, Some(&b"http/1.1"[..]));
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    probe.send(format!("{request}{GET}")).await;
    let answer = probe.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(probe.is_closed().await, "the second request is not served");
    assert_eq!(edge.gauges.refused_connections(), 0);

    let mut other = client.connect(&edge).await;
    other.send(GET).await;
    let refused = other.answer().await;
    assert_eq!(refused.status, 503);
    assert!(
        refused.body.contains("LLAMATOWER_MAX_CONNECTIONS"),
        "{refused:?}"
    );
    assert!(other.is_closed().await);
    assert_eq!(edge.gauges.refused_connections(), 1);
    assert_eq!(edge.gauges.connections(), 2);
}

/// Clients that connect and send nothing must not cost more with each of them.
#[tokio::test]
async fn above_the_limit_of_connections_few_handshakes_go_on_at_a_time() {
    const MOST: usize = 64;
    let folder = Folder::new();
    let config = EdgeConfig {
        max_connections: 0,
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    let mut silent = Vec::new();
    for _ in 0..MOST {
        silent.push(edge.connect().await);
    }
    // Connections are accepted in the order in which clients have connected.
    assert!(folder.trusting().handshake(&edge).await.is_err());
    assert_eq!(edge.gauges.refused_connections(), 1);
    for mut client in silent {
        assert!(client.is_closed().await);
    }
    let mut probe = folder.trusting().connect(&edge).await;
    probe
        .send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(probe.answer().await.status, 200);
}

/// Runs the test below in a separate process that may have 64 open files.
#[tokio::test]
async fn without_free_file_descriptors_accepting_pauses_and_continues() {
    let tests = std::env::current_exe().unwrap();
    let child = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64 && exec \"$0\" --exact --ignored limits::with_few_files",
        ])
        .arg(tests)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(3 * TIME_LIMIT, child)
        .await
        .unwrap()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}"
    );
}

/// The clients are in another process, so that they do not use its file descriptors.
#[tokio::test]
#[ignore = "run in a process with few files by the test above"]
async fn with_few_files() {
    let edge = Running::start(loopback(), service_fn(echo)).await;
    let mut crowd = tokio::process::Command::new("bash")
        .arg("-c")
        .arg(
            "ulimit -Sn \"$(ulimit -Hn)\"; \
             for i in $(seq 20 60); do eval \"exec $i<>/dev/tcp/127.0.0.1/$0\"; done; read -r _",
        )
        .arg(edge.addr.port().to_string())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Two clients in this process use the remaining descriptors.
    let mut own = Vec::new();
    let start = Instant::now();
    while edge.gauges.accept_errors() == 0 && start.elapsed() < TIME_LIMIT {
        if let Ok(client) = TcpStream::connect(edge.addr).await {
            own.push(client);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let errors = edge.gauges.accept_errors();
    assert!(errors > 0, "the files were never used up");
    // It pauses between attempts.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let attempts = edge.gauges.accept_errors() - errors;
    assert!(attempts <= 12, "{attempts} attempts in a second");

    own.clear();
    crowd.start_kill().unwrap();
    crowd.wait().await.unwrap();
    let answer = within_limit(edge.ask(GET)).await;
    assert_eq!(answer.status, 200);
}
