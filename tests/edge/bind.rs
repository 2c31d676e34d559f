use std::os::unix::net::UnixListener as StdUnixListener;

use llamatower::edge::{BasePath, BindError, Edge, EdgeConfig, ListenAddr};
use llamatower_layers::ClientAddress;
use tokio::net::{TcpStream, UnixStream};
use tower::service_fn;

use crate::support::{Client, Running, echo, loopback, within_limit};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

async fn bind(listen: ListenAddr) -> Result<Edge, BindError> {
    Edge::bind(EdgeConfig {
        listen: vec![listen],
        ..EdgeConfig::default()
    })
    .await
}

async fn failure(listen: ListenAddr) -> String {
    match bind(listen).await {
        Ok(edge) => panic!("listens on {:?}", edge.local_addrs()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let edge = Edge::bind(loopback()).await.unwrap();
    let taken = edge.local_addrs().remove(0);
    assert_eq!(
        failure(taken.clone()).await,
        format!(
            "cannot listen on {taken}: another process listens there; stop it or choose another address"
        )
    );
    drop(edge);
    bind(taken).await.unwrap();
}

#[tokio::test]
async fn an_address_of_another_machine_is_an_error_that_names_it() {
    let told = failure("192.0.2.1:0".parse().unwrap()).await;
    assert!(
        told.starts_with("cannot listen on 192.0.2.1:0: this machine does not have this address")
    );
}

#[tokio::test]
async fn a_unix_socket_serves_and_its_file_is_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    let listen = ListenAddr::Unix(path.clone());
    let stack = service_fn(|request: http::Request<_>| async {
        assert_eq!(ClientAddress::of(request.extensions()), None);
        echo(request).await
    });
    let config = EdgeConfig {
        listen: vec![listen.clone()],
        ..EdgeConfig::default()
    };
    let edge = Running::start(config, stack).await;
    let mut client = Client::new(UnixStream::connect(&path).await.unwrap());
    client.send(GET).await;
    assert_eq!(client.answer().await.body, "GET /");

    assert!(
        failure(listen)
            .await
            .contains("another process listens there")
    );
    edge.shutdown.drain();
    edge.drained().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn only_a_socket_file_without_a_listener_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.sock");
    drop(StdUnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(bind(ListenAddr::Unix(path.clone())).await.unwrap());

    std::fs::write(&path, "precious").unwrap();
    let told = failure(ListenAddr::Unix(path.clone())).await;
    assert!(told.contains("is not a socket"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    let told = failure(ListenAddr::Unix(dir.path().join("no/such.sock"))).await;
    assert!(told.contains("directory does not exist"), "{told}");
}

#[tokio::test]
async fn one_edge_listens_on_several_addresses() {
    let config = EdgeConfig {
        listen: vec![
            "127.0.0.1:0".parse().unwrap(),
            "[::1]:0".parse().unwrap(),
            "[::]:0".parse().unwrap(),
        ],
        ..EdgeConfig::default()
    };
    let stack = service_fn(|request: http::Request<_>| async {
        let client = ClientAddress::of(request.extensions()).unwrap();
        assert!(client.0.is_loopback());
        echo(request).await
    });
    let edge = Edge::bind(config).await.unwrap();
    let addrs = edge.local_addrs();
    tokio::spawn(edge.serve(stack, Default::default()));
    for (addr, status) in addrs.iter().zip([403, 403, 200]) {
        let ListenAddr::Tcp(addr) = addr else {
            panic!("{addr}")
        };
        let mut client = Client::new(within_limit(TcpStream::connect(addr)).await.unwrap());
        client.send(GET).await;
        assert_eq!(client.answer().await.status, status, "{addr}");
    }
}

#[test]
fn a_listen_address_is_tcp_or_unix() {
    for text in ["127.0.0.1:0", "[::]:3000", "unix:/run/x.sock"] {
        assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
    }
    assert_eq!(
        "localhost:1".parse(),
        Ok(ListenAddr::Tcp(([127, 0, 0, 1], 1).into()))
    );
    for text in ["", "unix:", "localhost", ":3000", "http://x:1", "1.2.3.4"] {
        let error = text.parse::<ListenAddr>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn an_invalid_base_path_is_refused() {
    for text in ["", "/", "x", "//", "/a//b", "/a/../b", "/a%20b", "/a?b"] {
        assert!(text.parse::<BasePath>().is_err(), "{text}");
    }
}
