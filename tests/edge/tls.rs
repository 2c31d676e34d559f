//! TLS: versions, protocols, clocks, and clients' certificates.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::{EdgeConfig, ListenAddr, RequestBody};
use llamatower::tls::{Certificates, ClientCertificates, ClientNames, TlsFiles};
use llamatower_layers::OverTls;
use llamatower_layers::api_key::AuthenticatedAs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::service_fn;

use crate::certificates::{Authority, Folder, with, write};
use crate::support::{Client, Feed, LARGE, Running, echo, fed, loopback, within_limit};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// An edge with this body as its only response.
async fn streaming(config: EdgeConfig) -> (Running, Feed) {
    let (feed, body) = fed();
    let body = Arc::new(Mutex::new(Some(body)));
    let stack = service_fn(move |_: Request<RequestBody>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    (Running::start(config, stack).await, feed)
}

/// Responds with what the edge knows of the client.
async fn who(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let name = request.extensions().get::<AuthenticatedAs>();
    let name = name.map_or("nobody", |AuthenticatedAs(name)| name);
    let is_tls = OverTls::is_in(request.extensions());
    Ok(Response::new(Full::from(format!("{name} {is_tls}"))))
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_served() {
    let folder = Folder::new();
    let edge = Running::start(folder.edge(loopback()), service_fn(echo)).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let versions: &'static [_] = Box::leak(Box::new([version]));
        let client = folder.trusting().with_versions(versions);
        let mut plain = client.connect(&edge).await;
        assert_eq!(
            plain.io.get_ref().1.protocol_version(),
            Some(version.version)
        );
        for _ in 0..2 {
            plain
                .send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            assert_eq!(plain.answer().await.body, "GET /x");
        }
        for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
            let stream = client.clone().offering(offered).handshake(&edge).await;
            let stream = stream.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
        }
    }
    let none = folder
        .trusting()
        .offering(&["spdy/3"])
        .handshake(&edge)
        .await;
    assert!(none.is_err(), "no protocol is common");
}

#[tokio::test]
async fn only_the_addresses_of_tls_speak_it() {
    let folder = Folder::new();
    let path = folder.path("edge.sock");
    let config = EdgeConfig {
        listen: vec![
            ListenAddr::Tcp(([127, 0, 0, 1], 0).into()),
            ListenAddr::Unix(path.clone()),
        ],
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(who)).await;
    let mut tls = folder.trusting().connect(&edge).await;
    tls.send(GET).await;
    assert_eq!(tls.answer().await.body, "nobody true");
    let mut unix = Client::new(tokio::net::UnixStream::connect(path).await.unwrap());
    unix.send(GET).await;
    assert_eq!(unix.answer().await.body, "nobody false");
}

#[tokio::test]
async fn plain_http_gets_a_text() {
    let folder = Folder::new();
    let edge = Running::start(folder.edge(loopback()), service_fn(echo)).await;
    for request in [
        GET,
        "POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ] {
        let mut client = edge.connect().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("this port speaks HTTPS"), "{answer:?}");
        let kind = answer.header("content-type").unwrap();
        assert!(kind.starts_with("text/plain"), "{kind}");
        client.io.shutdown().await.unwrap();
        assert!(client.is_closed().await);
    }
    assert_eq!(edge.gauges.refused_heads(), 2);
    assert_eq!(edge.gauges.failed_handshakes(), 0);
}

#[tokio::test]
async fn a_handshake_must_be_complete_within_the_time_of_a_head() {
    let folder = Folder::new();
    let config = EdgeConfig {
        header_timeout: Duration::from_millis(300),
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    // A record that announces 16 KiB of a handshake, and its first bytes.
    let start = [22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
    for sent in [&start[..], &start[..3], &[22], &[]] {
        let mut client = edge.connect().await;
        client.send(sent).await;
        let since = Instant::now();
        let mut rest = Vec::new();
        let _ = within_limit(client.io.read_to_end(&mut rest)).await;
        assert!(since.elapsed() >= Duration::from_millis(200), "{sent:?}");
    }
    assert_eq!(edge.gauges.failed_handshakes(), 3);
    // One that drips does not get more time.
    let mut client = edge.connect().await;
    let since = Instant::now();
    for byte in start.iter().chain([0; 1000].iter()) {
        if client.io.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_that_stops_reading_ends_by_the_clock_of_writes() {
    let folder = Folder::new();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_millis(400)),
        ..loopback()
    };
    let (edge, feed) = streaming(folder.edge(config)).await;
    let mut client = folder.trusting().connect(&edge).await;
    client.send(GET).await;
    client.until("\r\n\r\n").await;
    let line = Bytes::from(vec![b'x'; LARGE]);
    while feed.frames.send(line.clone()).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    within_limit(feed.gone).await.unwrap_err();
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_served() {
    let folder = Folder::new();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_millis(400)),
        ..loopback()
    };
    let (edge, feed) = streaming(folder.edge(config)).await;
    let mut client = folder.trusting().connect(&edge).await;
    client.send(GET).await;
    const TOTAL: usize = 4 * 1024 * 1024;
    feed.send_large(TOTAL / LARGE);
    drop(feed);
    let mut seen = 0;
    let mut piece = vec![0; 128 * 1024];
    while seen < TOTAL {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let read = within_limit(client.io.read(&mut piece)).await.unwrap();
        assert!(read > 0, "it was cut after {seen} bytes");
        seen += read;
    }
}

#[tokio::test]
async fn a_disconnect_ends_the_request_also_behind_the_next_one() {
    let folder = Folder::new();
    for behind in ["", "G"] {
        let (edge, feed) = streaming(folder.edge(loopback())).await;
        let mut client = folder.trusting().connect(&edge).await;
        client.send(GET).await;
        feed.frames.send(Bytes::from("first\n")).unwrap();
        client.until("first\n").await;
        client.send(behind).await;
        drop(client);
        let since = Instant::now();
        within_limit(feed.gone).await.unwrap_err();
        assert!(since.elapsed() < Duration::from_millis(250), "{behind:?}");
    }
}

/// Some libraries wait until the server does the same before they close the socket.
#[tokio::test]
async fn a_client_that_only_ends_tls_has_gone() {
    let folder = Folder::new();
    let (edge, feed) = streaming(folder.edge(loopback())).await;
    let mut client = folder.trusting().connect(&edge).await;
    client.send(GET).await;
    feed.frames.send(Bytes::from("first\n")).unwrap();
    client.until("first\n").await;
    client.io.get_mut().1.send_close_notify();
    client.io.flush().await.unwrap();
    let since = Instant::now();
    within_limit(feed.gone).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_millis(250));
}

#[tokio::test]
async fn a_drain_ends_idle_connections_with_a_notice_and_completes_others() {
    let folder = Folder::new();
    let (edge, feed) = streaming(folder.edge(loopback())).await;
    let mut idle = folder.trusting().connect(&edge).await;
    let mut stream = folder.trusting().connect(&edge).await;
    stream.send(GET).await;
    feed.frames.send(Bytes::from("first\n")).unwrap();
    stream.until("first\n").await;
    edge.shutdown.drain();
    // Without a notice of the end, this would be an error.
    let mut rest = Vec::new();
    let _ = within_limit(idle.io.read_to_end(&mut rest)).await;
    feed.frames.send(Bytes::from("last\n")).unwrap();
    drop(feed.frames);
    stream.until("last\n").await;
    assert!(stream.rest().await.ends_with("0\r\n\r\n"));
    assert_eq!(edge.drained().await.cut, 0);
}

#[tokio::test]
async fn an_idle_connection_ends_with_a_notice() {
    let folder = Folder::new();
    let config = EdgeConfig {
        keep_alive_timeout: Duration::from_millis(100),
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    let mut client = folder.trusting().connect(&edge).await;
    client.send(GET).await;
    client.answer().await;
    let mut rest = Vec::new();
    let end = within_limit(client.io.read_to_end(&mut rest)).await;
    assert_eq!(end.unwrap(), 0, "an end without a notice is an error");
}

// === clients' certificates ===

/// An edge that knows clients of this authority.
async fn with_clients(
    folder: &Folder,
    clients: &Authority,
    certificates: ClientCertificates,
    names: ClientNames,
) -> Running {
    write(&folder.path("ca.crt"), &clients.pem);
    let files = TlsFiles {
        client_ca: Some(folder.path("ca.crt")),
        client_certificates: certificates,
        client_names: names,
        ..folder.files()
    };
    let certificates = Certificates::load(files).unwrap();
    Running::start(with(certificates, loopback()), service_fn(who)).await
}

#[tokio::test]
async fn a_required_certificate_is_needed_for_all_but_health() {
    let (folder, clients) = (Folder::new(), Authority::new("clients"));
    let required = ClientCertificates::Required;
    let edge = with_clients(&folder, &clients, required, ClientNames::default()).await;
    let mut without = folder.trusting().connect(&edge).await;
    without
        .send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(without.answer().await.status, 200);
    without.send(GET).await;
    let refusal = without.answer().await;
    assert_eq!(refusal.status, 403);
    assert!(
        refusal.body.contains("LLAMATOWER_TLS_CLIENT_CERTS"),
        "{refusal:?}"
    );

    let ada = folder.trusting().with_identity(clients.client("ada"));
    let mut client = ada.connect(&edge).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.body, "ada true");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (folder, clients) = (Folder::new(), Authority::new("clients"));
    for certificates in [ClientCertificates::Required, ClientCertificates::Optional] {
        let edge = with_clients(&folder, &clients, certificates, ClientNames::default()).await;
        // It has the same name, but another key.
        let others = Authority::new("clients").client("ada");
        let client = folder.trusting().with_identity(others);
        // In TLS 1.3 the client learns it with the first read.
        if let Ok(mut stream) = client.handshake(&edge).await {
            let _ = stream.write_all(GET.as_bytes()).await;
            let mut rest = Vec::new();
            let read = within_limit(stream.read_to_end(&mut rest)).await;
            assert!(read.is_err() && rest.is_empty(), "{rest:?}");
        }
        assert_eq!(edge.gauges.failed_handshakes(), 1);
    }
}

#[tokio::test]
async fn an_optional_certificate_names_its_client() {
    let (folder, clients) = (Folder::new(), Authority::new("clients"));
    let names = ClientNames::new(vec![("laptop-7".to_owned(), "ada".into())]);
    let optional = ClientCertificates::Optional;
    let edge = with_clients(&folder, &clients, optional, names).await;
    for (identity, expected) in [
        (None, "nobody true"),
        (Some("laptop-7"), "ada true"),
        (Some("laptop-8"), "nobody true"),
    ] {
        let mut client = folder.trusting();
        if let Some(name) = identity {
            client = client.with_identity(clients.client(name));
        }
        // The second connection resumes the first one's session.
        for _ in 0..2 {
            let mut client = client.connect(&edge).await;
            client.send(GET).await;
            assert_eq!(client.answer().await.body, expected, "{identity:?}");
        }
    }
}
