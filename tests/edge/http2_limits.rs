//! HTTP/2: limits, clocks and the drain.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use http::{Request, Response};
use llamatower::edge::{EdgeConfig, RequestBody, TrustedProxies};
use tokio::sync::{mpsc, oneshot};
use tower::service_fn;

use crate::certificates::Folder;
use crate::http2_client::{Connection, error_of, get, piece, silent, streaming, text};
use crate::support::{Client, Feed, Running, echo, fed, loopback, within_limit};

#[tokio::test]
async fn a_connection_has_at_most_a_hundred_streams() {
    let folder = Folder::new();
    let (edge, mut requests) = silent(&folder).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let first = connection.begin(get("/")).await;
    within_limit(requests.recv()).await.unwrap();
    // Settings have arrived.
    while connection.requests.current_max_send_streams() > 1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(connection.requests.current_max_send_streams(), 100);
    let mut begun = vec![first];
    for _ in 1..100 {
        begun.push(connection.begin(get("/")).await);
        within_limit(requests.recv()).await.unwrap();
    }
    assert_eq!(edge.gauges.in_flight(), 100);
    // The next waits in the client until one ends.
    let mut next = connection.begin(get("/")).await;
    drop(begun.pop());
    tokio::select! {
        request = requests.recv() => drop(request.unwrap()),
        answer = &mut next => panic!("{answer:?}"),
        () = tokio::time::sleep(Duration::from_secs(5)) => panic!("nothing"),
    }
    assert!(edge.gauges.in_flight() <= 100);
}

#[tokio::test]
async fn a_client_that_resets_its_streams_rapidly_is_disconnected() {
    let folder = Folder::new();
    let (edge, mut requests) = silent(&folder).await;
    let counting = tokio::spawn(async move {
        let mut count = 0;
        while requests.recv().await.is_some() {
            count += 1;
        }
        count
    });
    let mut connection = Connection::to(&edge, &folder).await;
    let mut sent = 0;
    while sent < 20_000 && !connection.end.is_finished() {
        let ready = poll_fn(|cx| connection.requests.poll_ready(cx)).await;
        let Ok((request, mut stream)) =
            ready.and_then(|()| connection.requests.send_request(get("/"), true))
        else {
            break;
        };
        stream.send_reset(Reason::CANCEL);
        drop(request);
        sent += 1;
        tokio::task::yield_now().await;
    }
    let _ = within_limit(&mut connection.end).await;
    assert!(sent < 20_000);
    while edge.gauges.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(edge.gauges.in_flight(), 0);
    // Others are served meanwhile and afterwards.
    let mut other = Connection::to(&edge, &folder).await;
    let health = other.get("/health").await.unwrap();
    assert_eq!(health.status(), 200);
    edge.shutdown.end_now();
    drop(other);
    edge.drained().await;
    let count = within_limit(counting).await.unwrap();
    assert!(count <= 500, "{count} requests reached the stack");
}

/// An edge that responds to `/stream` with the bodies that the test gets, and not to others.
async fn streaming_or_silent(
    folder: &Folder,
    config: EdgeConfig,
) -> (Running, mpsc::UnboundedReceiver<Option<Feed>>) {
    let (started, receiver) = mpsc::unbounded_channel();
    let stack = service_fn(move |request: Request<RequestBody>| {
        let started = started.clone();
        async move {
            if request.uri().path() != "/stream" {
                started.send(None).unwrap();
                pending::<()>().await;
            }
            let (feed, body) = fed();
            started.send(Some(feed)).unwrap();
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    (Running::start(folder.edge(config), stack).await, receiver)
}

/// Cancels requests before they are answered until the connection accepts no more, at most so many.
/// Returns their number.
async fn cancel(
    connection: &mut Connection,
    requests: &mut mpsc::UnboundedReceiver<Option<Feed>>,
    most: u32,
) -> u32 {
    for number in 0..most {
        if poll_fn(|cx| connection.requests.poll_ready(cx))
            .await
            .is_err()
        {
            return number;
        }
        let Ok((mut answer, _)) = connection.requests.send_request(get("/"), true) else {
            return number;
        };
        tokio::select! {
            request = requests.recv() => drop(request.unwrap()),
            answer = &mut answer => {
                answer.unwrap_err();
                return number;
            }
        }
    }
    most
}

#[tokio::test]
async fn a_client_that_cancels_too_many_requests_is_asked_to_leave() {
    let folder = Folder::new();
    let (edge, mut requests) = streaming_or_silent(&folder, loopback()).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let mut body = connection.get("/stream").await.unwrap().into_body();
    let feed = requests.recv().await.unwrap().unwrap();
    let cancelled = cancel(&mut connection, &mut requests, 1000).await;
    assert!((200..300).contains(&cancelled), "{cancelled}");
    assert_eq!(edge.gauges.connections_of_cancels(), 1);
    // The response that has begun is completed.
    feed.frames.send(Bytes::from("a line\n")).unwrap();
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "a line\n");
    drop(feed.frames);
    assert_eq!(text(body).await, "");
    within_limit(connection.end).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_clients_of_a_trusted_proxy_can_cancel_any_number_of_requests() {
    let folder = Folder::new();
    let config = EdgeConfig {
        trusted_proxies: TrustedProxies::with(["127.0.0.1"]).unwrap(),
        ..loopback()
    };
    let (edge, mut requests) = streaming_or_silent(&folder, config).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let mut body = connection.get("/stream").await.unwrap().into_body();
    let feed = requests.recv().await.unwrap().unwrap();
    assert_eq!(cancel(&mut connection, &mut requests, 500).await, 500);
    feed.frames.send(Bytes::from("a line\n")).unwrap();
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "a line\n");
    assert_eq!(edge.gauges.connections_of_cancels(), 0);
}

#[tokio::test]
async fn a_client_that_cancels_some_requests_stays_connected() {
    let folder = Folder::new();
    let (edge, mut feeds) = streaming(&folder, loopback()).await;
    let mut connection = Connection::to(&edge, &folder).await;
    for _ in 0..300 {
        let cancelled = connection.get("/stream").await.unwrap();
        feeds.recv().await.unwrap();
        drop(cancelled);
    }
    assert_eq!(connection.get("/").await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_while_another_goes_on() {
    let folder = Folder::new();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_millis(400)),
        ..loopback()
    };
    let (edge, mut feeds) = streaming(&folder, config).await;
    let mut builder = Builder::new();
    builder
        .initial_window_size(64 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024);
    let mut connection = Connection::with(&edge, &folder, &builder).await;
    let mut unread = connection.get("/stream").await.unwrap().into_body();
    let stalling = feeds.recv().await.unwrap();
    for _ in 0..16 {
        let line = Bytes::from(vec![b'x'; 16 * 1024]);
        stalling.frames.send(line).unwrap();
    }
    let mut read = connection.get("/stream").await.unwrap().into_body();
    let going_on = feeds.recv().await.unwrap();
    // Slowly, and more than a window in total: it is not taken for a stalled one.
    let since = Instant::now();
    let mut gone = stalling.gone;
    let mut has_ended = false;
    for _ in 0..60 {
        going_on
            .frames
            .send(Bytes::from(vec![b'y'; 8 * 1024]))
            .unwrap();
        let mut seen = 0;
        while seen < 8 * 1024 {
            seen += piece(&mut read).await.unwrap().unwrap().len();
        }
        if !has_ended && gone.try_recv() == Err(oneshot::error::TryRecvError::Closed) {
            has_ended = true;
            assert!(since.elapsed() >= Duration::from_millis(300));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(has_ended, "the stream that is not read has ended");
    assert_eq!(edge.gauges.in_flight(), 1);
    let end = error_of(&mut unread).await.expect("no clean end");
    assert_eq!(end.reason(), Some(Reason::CANCEL), "{end}");
}

#[tokio::test]
async fn a_closed_window_also_ends_a_short_response() {
    let folder = Folder::new();
    let config = EdgeConfig {
        write_stall_timeout: Some(Duration::from_millis(300)),
        ..loopback()
    };
    let edge = Running::start(folder.edge(config), service_fn(echo)).await;
    let mut builder = Builder::new();
    builder.initial_window_size(0);
    let mut connection = Connection::with(&edge, &folder, &builder).await;
    // The client's settings are sent with its preface, so the edge knows them.
    for path in ["/health", "/x"] {
        let mut body = connection.get(path).await.unwrap().into_body();
        let end = within_limit(body.data()).await.unwrap().unwrap_err();
        assert_eq!(end.reason(), Some(Reason::CANCEL), "{path}: {end}");
    }
}

#[tokio::test]
async fn a_drain_sends_goaway_and_completes_requests() {
    let folder = Folder::new();
    let (edge, mut feeds) = streaming(&folder, loopback()).await;
    let mut idle = Connection::to(&edge, &folder).await;
    idle.get("/").await.unwrap();
    let mut connection = Connection::to(&edge, &folder).await;
    let mut body = connection.get("/stream").await.unwrap().into_body();
    let feed = feeds.recv().await.unwrap();
    edge.shutdown.drain();
    within_limit(idle.end).await.unwrap().unwrap();
    feed.frames.send(Bytes::from("a line\n")).unwrap();
    assert_eq!(piece(&mut body).await.unwrap().unwrap(), "a line\n");
    // The client may not begin another request on this connection.
    within_limit(async {
        while connection.requests.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(feed.frames);
    assert_eq!(text(body).await, "");
    within_limit(connection.end).await.unwrap().unwrap();
    let drained = edge.drained().await;
    assert_eq!((drained.completed, drained.cut), (1, 0));
}

#[tokio::test]
async fn during_the_delay_of_a_drain_a_request_is_answered_with_goaway() {
    let folder = Folder::new();
    let config = EdgeConfig {
        drain_delay: Duration::from_secs(60),
        ..loopback()
    };
    let (edge, _feeds) = streaming(&folder, config).await;
    let mut connection = Connection::to(&edge, &folder).await;
    connection.get("/").await.unwrap();
    edge.shutdown.drain();
    while !edge.gauges.is_draining() {
        tokio::task::yield_now().await;
    }
    let health = connection.get("/health").await.unwrap();
    assert_eq!(health.status(), 503);
    drop(health);
    within_limit(connection.end).await.unwrap().unwrap();
    edge.shutdown.end_now();
    edge.drained().await;
}

#[tokio::test]
async fn at_the_cap_of_a_drain_streams_are_cut() {
    let folder = Folder::new();
    let config = EdgeConfig {
        drain_timeout: Duration::from_millis(200),
        ..loopback()
    };
    let (edge, mut feeds) = streaming(&folder, config).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let mut body = connection.get("/stream").await.unwrap().into_body();
    let feed = feeds.recv().await.unwrap();
    feed.frames.send(Bytes::from("a line\n")).unwrap();
    piece(&mut body).await.unwrap().unwrap();
    edge.shutdown.drain();
    assert_eq!(edge.drained().await.cut, 1);
    within_limit(feed.gone).await.unwrap_err();
    assert!(piece(&mut body).await.is_none_or(|end| end.is_err()));
}

#[tokio::test]
async fn an_unused_connection_ends_after_its_time() {
    let folder = Folder::new();
    let config = EdgeConfig {
        header_timeout: Duration::from_millis(200),
        keep_alive_timeout: Duration::from_millis(300),
        ..loopback()
    };
    let (edge, mut feeds) = streaming(&folder, config).await;
    let never_used = Connection::to(&edge, &folder).await;
    within_limit(never_used.end).await.unwrap().unwrap();

    let mut used = Connection::to(&edge, &folder).await;
    let body = used.get("/stream").await.unwrap();
    let feed = feeds.recv().await.unwrap();
    // A request keeps it open.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!used.end.is_finished());
    let since = Instant::now();
    drop(feed.frames);
    drop(body);
    within_limit(used.end).await.unwrap().unwrap();
    assert!(since.elapsed() >= Duration::from_millis(250));

    // One that does not even begin.
    let client = folder.trusting().offering(&["h2"]);
    let stream = client.handshake(&edge).await.unwrap();
    let mut client = Client::new(stream);
    client.rest_bytes().await;
    while edge.gauges.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_has_its_total_time() {
    let folder = Folder::new();
    let config = EdgeConfig {
        total_timeout: Some(Duration::from_millis(200)),
        ..loopback()
    };
    let (edge, mut feeds) = streaming(&folder, config).await;
    let mut connection = Connection::to(&edge, &folder).await;
    let mut body = connection.get("/stream").await.unwrap().into_body();
    let feed = feeds.recv().await.unwrap();
    within_limit(feed.gone).await.unwrap_err();
    assert!(piece(&mut body).await.unwrap().is_err());
    assert_eq!(connection.get("/").await.unwrap().status(), 200);
}
