//! The change of the files of a certificate while connections are served.

use std::convert::Infallible;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::RequestBody;
use llamatower::tls::{Certificates, ClientCertificates, TlsFiles};
use llamatower_layers::OverTls;
use llamatower_layers::api_key::AuthenticatedAs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::service_fn;

use crate::certificates::{Authority, Folder, Pair, TlsClient, der, shown, with, write};
use crate::support::{FedBody, Running, echo, fed, loopback, within_limit};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Responds with what the edge knows of the client.
async fn who(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let name = request.extensions().get::<AuthenticatedAs>();
    let name = name.map_or("nobody", |AuthenticatedAs(name)| name);
    let is_tls = OverTls::is_in(request.extensions());
    Ok(Response::new(Full::from(format!("{name} {is_tls}"))))
}

/// Watches the files, and tells each change.
fn watched(certificates: &Certificates) -> tokio::sync::mpsc::UnboundedReceiver<bool> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(certificates.clone().watch(move |is_applied| {
        let _ = sender.send(is_applied);
    }));
    receiver
}

/// Waits until a new connection is shown this certificate.
async fn until_shown(client: &TlsClient, edge: &Running, pair: &Pair) {
    within_limit(async {
        while shown(&client.handshake(edge).await.unwrap()) != der(&pair.cert) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_in_force_within_a_second_and_no_request_fails() {
    const STREAMS: usize = 200;
    let folder = Folder::new();
    let certificates = folder.certificates();
    let mut changes = watched(&certificates);
    let stack = service_fn(|_: Request<RequestBody>| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for _ in 0..40 {
                let _ = feed.frames.send(Bytes::from("a line\n"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok::<Response<FedBody>, Infallible>(Response::new(body))
    });
    let edge = Arc::new(Running::start(with(certificates, loopback()), stack).await);
    let client = folder.trusting();
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (edge, client) = (edge.clone(), client.clone());
        streams.spawn(async move {
            let mut client = client.connect(&edge).await;
            client.send(GET).await;
            let answer = client.answer().await;
            answer.complete && answer.body == "a line\n".repeat(40)
        });
    }
    while edge.gauges.in_flight() < STREAMS / 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = folder.authority.server();
    let since = Instant::now();
    folder.write(&second);
    until_shown(&client, &edge, &second).await;
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(changes.recv().await, Some(true));
    while let Some(is_complete) = streams.join_next().await {
        assert!(is_complete.unwrap());
    }
    assert_eq!(edge.gauges.failed_handshakes(), 0);
}

#[tokio::test]
async fn a_swapped_link_is_noticed_as_kubernetes_swaps_it() {
    let folder = Folder::new();
    let root = folder.path("mounted");
    let version = |name: &str, pair: &Pair| {
        let directory = root.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("tls.crt"), &pair.cert).unwrap();
        std::fs::write(directory.join("tls.key"), &pair.key).unwrap();
        let draft = root.join("..data_tmp");
        symlink(name, &draft).unwrap();
        std::fs::rename(&draft, root.join("..data")).unwrap();
    };
    let (first, second) = (folder.authority.server(), folder.authority.server());
    version("..2026_01", &first);
    symlink("..data/tls.crt", root.join("tls.crt")).unwrap();
    symlink("..data/tls.key", root.join("tls.key")).unwrap();
    let files = TlsFiles {
        cert: root.join("tls.crt"),
        key: root.join("tls.key"),
        ..folder.files()
    };
    let certificates = Certificates::load(files).unwrap();
    let mut changes = watched(&certificates);
    let edge = Running::start(with(certificates, loopback()), service_fn(echo)).await;
    until_shown(&folder.trusting(), &edge, &first).await;
    let since = Instant::now();
    version("..2026_02", &second);
    std::fs::remove_dir_all(root.join("..2026_01")).unwrap();
    until_shown(&folder.trusting(), &edge, &second).await;
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(changes.recv().await, Some(true));
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_certificate_in_force() {
    let folder = Folder::new();
    let certificates = folder.certificates();
    let mut changes = watched(&certificates);
    let edge = Running::start(with(certificates.clone(), loopback()), service_fn(echo)).await;
    let first = shown(&folder.trusting().handshake(&edge).await.unwrap());
    let other = folder.authority.server();
    for (name, text, setting) in [
        ("tls.key", &*other.key, "LLAMATOWER_TLS_KEY"),
        ("tls.crt", "not PEM", "LLAMATOWER_TLS_CERT"),
        ("tls.key", "", "LLAMATOWER_TLS_CERT"),
    ] {
        write(&folder.path(name), text);
        assert_eq!(within_limit(changes.recv()).await, Some(false), "{text}");
        let error = loop {
            let error = certificates.status().last_load.and_then(|load| load.error);
            match error.filter(|error| error.contains(setting)) {
                Some(error) => break error,
                None => tokio::task::yield_now().await,
            }
        };
        assert!(!error.contains("PRIVATE KEY-----"), "{error}");
        let now = shown(&folder.trusting().handshake(&edge).await.unwrap());
        assert_eq!(now, first);
    }
    std::fs::remove_file(folder.path("tls.crt")).unwrap();
    assert_eq!(within_limit(changes.recv()).await, Some(false));
    folder.write(&other);
    until_shown(&folder.trusting(), &edge, &other).await;
    assert_eq!(within_limit(changes.recv()).await, Some(true));
    assert_eq!(certificates.status().last_load.unwrap().error, None);
}

#[tokio::test]
async fn an_expired_certificate_replaces_none_that_is_valid() {
    let folder = Folder::new();
    let certificates = folder.certificates();
    let mut changes = watched(&certificates);
    let edge = Running::start(with(certificates.clone(), loopback()), service_fn(echo)).await;
    let first = shown(&folder.trusting().handshake(&edge).await.unwrap());
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let expired = folder.authority.sign(&params);
    folder.write(&expired);
    assert_eq!(within_limit(changes.recv()).await, Some(false));
    let now = shown(&folder.trusting().handshake(&edge).await.unwrap());
    assert_eq!(now, first);
    let error = within_limit(async {
        loop {
            match certificates.status().last_load.and_then(|load| load.error) {
                Some(error) => break error,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let error = error.await;
    let reason = "LLAMATOWER_TLS_CERT: the certificate has expired (2002-01-01";
    assert!(error.starts_with(reason), "{error}");
    let valid = folder.authority.server();
    folder.write(&valid);
    until_shown(&folder.trusting(), &edge, &valid).await;
}

#[tokio::test]
async fn a_removed_authority_of_clients_is_not_trusted_by_way_of_an_old_session() {
    let (folder, clients) = (Folder::new(), Authority::new("clients"));
    write(&folder.path("ca.crt"), &clients.pem);
    let certificates = Certificates::load(TlsFiles {
        client_ca: Some(folder.path("ca.crt")),
        client_certificates: ClientCertificates::Required,
        ..folder.files()
    });
    let certificates = certificates.unwrap();
    let mut changes = watched(&certificates);
    let edge = Running::start(with(certificates, loopback()), service_fn(who)).await;
    let ada = folder.trusting().with_identity(clients.client("ada"));
    let is_known = AtomicBool::new(false);
    let ask = async || {
        let Ok(mut stream) = ada.handshake(&edge).await else {
            return is_known.store(false, Relaxed);
        };
        let _ = stream.write_all(GET.as_bytes()).await;
        let mut bytes = [0; 4096];
        let read = within_limit(stream.read(&mut bytes)).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
        is_known.store(text.contains("200 OK"), Relaxed);
    };
    ask().await;
    assert!(is_known.load(Relaxed));
    write(&folder.path("ca.crt"), &Authority::new("others").pem);
    assert_eq!(within_limit(changes.recv()).await, Some(true));
    within_limit(async {
        while is_known.load(Relaxed) {
            ask().await;
        }
    })
    .await;
}
