//! HTTP/2: the rules and the bodies, as in HTTP/1.1.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::Builder;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use llamatower::edge::{EdgeConfig, RequestBody};
use tokio::io::AsyncWriteExt;
use tower::service_fn;

use crate::certificates::Folder;
use crate::http2_client::{Connection, error_of, get, piece, silent, streaming, text};
use crate::support::{Client, FedBody, Running, echo, fed, loopback, within_limit};

#[tokio::test]
async fn a_stream_is_the_same_byte_for_byte_in_all_protocols() {
    let folder = Folder::new();
    let stack = service_fn(|_: Request<RequestBody>| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for number in 0..50 {
                let line = format!(
                    "{{\"n\":{number},\"text\":\"{}\"}}\n",
                    "e".repeat(number * 97)
                );
                // In pieces that do not end with lines.
                let (one, two) = line.as_bytes().split_at(line.len() / 2);
                for piece in [one, two] {
                    feed.frames.send(Bytes::copy_from_slice(piece)).unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let answer = Response::builder().header("content-type", "application/x-ndjson");
        Ok::<_, Infallible>(answer.body(body).unwrap())
    });
    let tls = Running::start(folder.edge(loopback()), stack).await;
    let plain = Running::start(loopback(), stack).await;
    const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let expected = plain.ask(GET).await.body;
    assert!(expected.len() > 100_000 && expected.ends_with("\n"));
    let mut over_tls = folder.trusting().connect(&tls).await;
    over_tls.send(GET).await;
    assert_eq!(over_tls.answer().await.body, expected);
    let mut http2 = Connection::to(&tls, &folder).await;
    let answer = http2.get("/").await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    assert!(!answer.headers().contains_key("transfer-encoding"));
    assert_eq!(text(answer.into_body()).await, expected);
}

#[tokio::test]
async fn a_client_of_a_library_chooses_http_2() {
    let folder = Folder::new();
    let edge = Running::start(folder.edge(loopback()), service_fn(echo)).await;
    let authority = reqwest::Certificate::from_pem(folder.authority.pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([authority])
        .resolve("localhost", edge.addr)
        .build()
        .unwrap();
    for _ in 0..3 {
        let url = format!("https://localhost:{}/api/tags?a=1", edge.addr.port());
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        assert_eq!(answer.text().await.unwrap(), "GET /api/tags?a=1");
    }
    assert_eq!(edge.gauges.connections(), 1);
}

#[tokio::test]
async fn without_tls_it_is_served_only_if_it_is_allowed() {
    for plain_http2 in [true, false] {
        let config = EdgeConfig {
            plain_http2,
            ..loopback()
        };
        let edge = Running::start(config, service_fn(echo)).await;
        let mut stream = tokio::net::TcpStream::connect(edge.addr).await.unwrap();
        if plain_http2 {
            let mut connection = Connection::over(stream, &Builder::new()).await;
            let answer = connection.get("/x").await.unwrap();
            assert_eq!(text(answer.into_body()).await, "GET /x");
            // HTTP/1.1 is served on the same port.
            let answer = edge.ask("GET /y HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert_eq!(answer.body, "GET /y");
        } else {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .unwrap();
            let answer = Client::new(stream).answer().await;
            assert_eq!(answer.status, 400);
            assert!(answer.body.contains("HTTP/1.1"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn the_rules_for_requests_hold() {
    let folder = Folder::new();
    let config = EdgeConfig {
        max_head_fields: 20,
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let mut status = async |request: Request<()>| {
        let answer = connection.begin(request).await;
        within_limit(answer).await.unwrap().status().as_u16()
    };
    let to = |authority: &str, path: &str| Request::get(format!("https://{authority}{path}"));
    assert_eq!(status(to("localhost", "/").body(()).unwrap()).await, 200);
    assert_eq!(
        status(to("localhost", "/health").body(()).unwrap()).await,
        200
    );
    assert_eq!(status(to("evil.example", "/").body(()).unwrap()).await, 403);
    let foreign = to("localhost", "/").header("origin", "https://evil.example");
    assert_eq!(status(foreign.body(()).unwrap()).await, 403);
    let other = to("localhost", "/").header("host", "127.0.0.1");
    assert_eq!(status(other.body(()).unwrap()).await, 400);
    let long = to("localhost", &format!("/{}", "x".repeat(9000)));
    assert_eq!(status(long.body(()).unwrap()).await, 414);
    let trace = to("localhost", "/").method(Method::TRACE);
    assert_eq!(status(trace.body(()).unwrap()).await, 405);
    let mut many = to("localhost", "/");
    for number in 0..30 {
        many = many.header(format!("x-{number}"), "1");
    }
    assert_eq!(status(many.body(()).unwrap()).await, 431);
    // The connection is still good.
    assert_eq!(status(to("localhost", "/").body(()).unwrap()).await, 200);
    assert_eq!(edge.gauges.in_flight(), 0);
}

#[tokio::test]
async fn the_response_to_head_has_the_length_of_that_to_get_and_no_body() {
    let folder = Folder::new();
    let stack = service_fn(|request: Request<RequestBody>| async move {
        let answer = match request.uri().path() {
            // A backend's: the length of a body that it does not send.
            "/blob" => Response::builder().header("content-length", 9),
            _ => Response::builder(),
        };
        let (feed, body) = fed();
        if request.uri().path() == "/stream" {
            feed.frames.send(Bytes::from_static(b"a line\n")).unwrap();
        }
        Ok::<_, Infallible>(answer.body(body).unwrap())
    });
    let edge = Running::start(folder.edge(loopback()), stack).await;
    let mut connection = Connection::to(&edge, &folder).await;
    for (host, path, status) in [
        ("localhost", "/health", 200),
        ("localhost", "/blob", 200),
        ("localhost", "/stream", 200),
        ("evil.example", "/", 403),
    ] {
        let url = format!("https://{host}{path}");
        let head = connection.begin(Request::head(&url).body(()).unwrap());
        let head = within_limit(head.await).await.unwrap();
        assert_eq!(head.status(), status, "{path}");
        let length = head.headers().get("content-length").cloned();
        match path {
            "/stream" => assert_eq!(length, None),
            "/blob" => assert_eq!(length.unwrap(), "9"),
            _ => {
                let get = connection.begin(Request::get(&url).body(()).unwrap());
                let get = within_limit(get.await).await.unwrap();
                assert_eq!(length, get.headers().get("content-length").cloned());
                assert!(!text(get.into_body()).await.is_empty());
            }
        }
        assert_eq!(text(head.into_body()).await, "", "{path}");
    }
    assert_eq!(edge.gauges.in_flight(), 0);
}

#[tokio::test]
async fn a_head_above_the_limit_is_refused() {
    let folder = Folder::new();
    let config = EdgeConfig {
        max_head_bytes: 4096,
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    let mut connection = Connection::to(&edge, &folder).await;
    // Settings arrive with the first response.
    connection.get("/").await.unwrap();
    let mut large = get("/");
    let value = "x".repeat(6000).parse().unwrap();
    large.headers_mut().insert("x-large", value);
    let answer = connection.begin(large).await;
    match within_limit(answer).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_library(), "{error}"),
    }
}

#[tokio::test]
async fn a_request_s_body_is_read_and_one_that_stops_is_refused() {
    let folder = Folder::new();
    let stack = service_fn(|request: Request<RequestBody>| async {
        let body = request.into_body().collect().await;
        let (status, text) = match body {
            Ok(body) => (200, body.to_bytes().len().to_string()),
            Err(error) => (408, error.to_string()),
        };
        let answer = Response::builder().status(status);
        Ok::<_, Infallible>(answer.body(Full::<Bytes>::from(text)).unwrap())
    });
    let config = EdgeConfig {
        body_timeout: Some(Duration::from_millis(300)),
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), stack).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let post = || Request::post("https://localhost/").body(()).unwrap();
    // More than both windows.
    let (answer, mut body) = connection.requests.send_request(post(), false).unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..64 {
            body.reserve_capacity(16 * 1024);
            while body.capacity() < 16 * 1024 {
                poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
            }
            body.send_data(Bytes::from(vec![b'x'; 16 * 1024]), false)
                .unwrap();
        }
        body.send_data(Bytes::new(), true).unwrap();
    });
    let answer = within_limit(answer).await.unwrap();
    assert_eq!(text(answer.into_body()).await, (64 * 16 * 1024).to_string());
    sending.await.unwrap();

    let (answer, mut body) = connection.requests.send_request(post(), false).unwrap();
    body.send_data(Bytes::from("a part"), false).unwrap();
    let answer = within_limit(answer).await.unwrap();
    assert_eq!(answer.status(), 408);
    let reason = text(answer.into_body()).await;
    assert!(reason.contains("LLAMATOWER_BODY_READ_TIMEOUT"), "{reason}");
}

#[tokio::test]
async fn a_reset_ends_the_request_at_once_and_others_go_on() {
    let folder = Folder::new();
    let (edge, mut feeds) = streaming(&folder, loopback()).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let one = connection.get("/stream").await.unwrap();
    let first = feeds.recv().await.unwrap();
    let mut other = connection.get("/stream").await.unwrap().into_body();
    let second = feeds.recv().await.unwrap();
    let since = Instant::now();
    // The library resets a stream whose response is dropped.
    drop(one);
    within_limit(first.gone).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_millis(250));
    second.frames.send(Bytes::from("a line\n")).unwrap();
    assert_eq!(piece(&mut other).await.unwrap().unwrap(), "a line\n");
    assert_eq!(edge.gauges.in_flight(), 1);

    // Before a response, too.
    let (edge, mut requests) = silent(&folder).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let request = connection.begin(get("/")).await;
    let gone = requests.recv().await.unwrap();
    let since = Instant::now();
    drop(request);
    within_limit(gone).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_millis(250));
    assert_eq!(edge.gauges.in_flight(), 0);
}

#[tokio::test]
async fn a_disconnect_ends_all_requests_at_once() {
    let folder = Folder::new();
    let (edge, mut requests) = silent(&folder).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let mut begun = Vec::new();
    for _ in 0..10 {
        begun.push(connection.begin(get("/")).await);
    }
    let mut gone = Vec::new();
    for _ in 0..10 {
        gone.push(within_limit(requests.recv()).await.unwrap());
    }
    let since = Instant::now();
    connection.end.abort();
    for gone in gone {
        within_limit(gone).await.unwrap_err();
    }
    assert!(since.elapsed() < Duration::from_millis(250));
    while edge.gauges.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(edge.gauges.in_flight(), 0);
}

#[tokio::test]
async fn a_broken_body_is_no_clean_end_and_what_came_before_arrives() {
    let folder = Folder::new();
    let stack = service_fn(|_: Request<RequestBody>| async {
        let (feed, body) = fed();
        feed.frames.send(Bytes::from("too short")).unwrap();
        let answer = Response::builder().header("content-length", "100");
        Ok::<Response<FedBody>, Infallible>(answer.body(body).unwrap())
    });
    let edge = Running::start(folder.edge(loopback()), stack).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let answer = connection.get("/").await;
    // The error may overtake the head, but it is an error in any case.
    if let Ok(answer) = answer {
        let end = error_of(&mut answer.into_body()).await;
        assert!(end.expect("no clean end").is_reset());
    }
    assert_eq!(connection.get("/health").await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_connections_without_loss() {
    let folder = Arc::new(Folder::new());
    let stack = service_fn(|_: Request<RequestBody>| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for number in 0..50 {
                let _ = feed.frames.send(Bytes::from(format!("{number}\n")));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Ok::<_, Infallible>(Response::new(body))
    });
    let edge = Arc::new(Running::start(folder.edge(loopback()), stack).await);
    let expected: String = (0..50).map(|number| format!("{number}\n")).collect();
    let failed = Arc::new(Mutex::new(0));
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (edge, folder, failed) = (edge.clone(), folder.clone(), failed.clone());
        let expected = expected.clone();
        connections.spawn(async move {
            let mut builder = Builder::new();
            // The responses are read one after the other, which the library takes for an attack.
            builder.data_frame_budget(1024 * 1024);
            let mut connection = Connection::with(&edge, &folder, &builder).await;
            let mut begun = Vec::new();
            for _ in 0..50 {
                begun.push(connection.begin(get("/")).await);
            }
            for request in begun {
                let answer = within_limit(request).await.unwrap();
                if text(answer.into_body()).await != expected {
                    *failed.lock().unwrap() += 1;
                }
            }
        });
    }
    while let Some(done) = connections.join_next().await {
        done.unwrap();
    }
    assert_eq!(*failed.lock().unwrap(), 0);
}
