//! The client's address, as the stack sees it.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::{EdgeConfig, ListenAddr, RequestBody, TrustedProxies};
use llamatower_layers::ClientAddress;
use tokio::net::UnixStream;
use tower::service_fn;

use crate::support::{Client, Running, loopback};

async fn who(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let client = ClientAddress::of(request.extensions());
    let text = client.map_or("none".to_owned(), |client| client.0.to_string());
    Ok(Response::new(Full::from(text)))
}

fn trusting(entries: &[&str], config: EdgeConfig) -> EdgeConfig {
    EdgeConfig {
        trusted_proxies: TrustedProxies::with(entries).unwrap(),
        ..config
    }
}

async fn seen(entries: &[&str], fields: &str) -> String {
    let edge = Running::start(trusting(entries, loopback()), service_fn(who)).await;
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    edge.ask(&request).await.body
}

#[tokio::test]
async fn a_trusted_proxy_sets_the_clients_address() {
    let list = "X-Forwarded-For: 1.1.1.1, 198.51.100.7, 127.0.0.9\r\n";
    let elements = "Forwarded: for=1.1.1.1, for=\"[2001:db8::7]:80\";proto=https\r\n";
    assert_eq!(seen(&["127.0.0.0/8"], list).await, "198.51.100.7");
    assert_eq!(seen(&["127.0.0.1"], list).await, "127.0.0.9");
    assert_eq!(seen(&["127.0.0.1"], elements).await, "2001:db8::7");
    assert_eq!(
        seen(&["127.0.0.1"], &format!("{list}{elements}")).await,
        "127.0.0.1"
    );
    assert_eq!(seen(&["127.0.0.1"], "").await, "127.0.0.1");
}

#[tokio::test]
async fn other_peers_do_not_set_the_clients_address() {
    for fields in [
        "X-Forwarded-For: 198.51.100.7\r\n",
        "Forwarded: for=198.51.100.7\r\n",
        "X-Real-IP: 198.51.100.7\r\n",
    ] {
        assert_eq!(seen(&[], fields).await, "127.0.0.1");
        assert_eq!(seen(&["10.0.0.0/8", "unix"], fields).await, "127.0.0.1");
    }
}

#[tokio::test]
async fn a_proxy_at_a_unix_socket_is_trusted_by_the_entry_unix() {
    let folder = tempfile::tempdir().unwrap();
    for (entries, client) in [(&["unix"][..], "198.51.100.7"), (&[], "none")] {
        let path = folder.path().join(client);
        let listen = vec![ListenAddr::Unix(path.clone())];
        let config = EdgeConfig {
            listen,
            ..EdgeConfig::default()
        };
        let _edge = Running::start(trusting(entries, config), service_fn(who)).await;
        let mut socket = Client::new(UnixStream::connect(&path).await.unwrap());
        socket
            .send("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n")
            .await;
        assert_eq!(socket.answer().await.body, client);
    }
}
