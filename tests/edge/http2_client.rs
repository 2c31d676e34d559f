//! A client that speaks HTTP/2, and edges for it.

use std::convert::Infallible;
use std::future::poll_fn;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::{EdgeConfig, RequestBody};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tower::service_fn;

use crate::certificates::Folder;
use crate::support::{FedBody, Feed, Running, fed, loopback, within_limit};

/// A client's connection.
pub struct Connection {
    pub requests: SendRequest<Bytes>,
    /// Ends with the connection.
    pub end: JoinHandle<Result<(), h2::Error>>,
}

impl Connection {
    pub async fn over<IO>(io: IO, builder: &Builder) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, connection) = within_limit(builder.handshake(io)).await.unwrap();
        Self {
            requests,
            end: tokio::spawn(connection),
        }
    }

    /// A connection by TLS.
    pub async fn to(edge: &Running, folder: &Folder) -> Self {
        Self::with(edge, folder, &Builder::new()).await
    }

    pub async fn with(edge: &Running, folder: &Folder, builder: &Builder) -> Self {
        let client = folder.trusting().offering(&["h2", "http/1.1"]);
        let stream = client.handshake(edge).await.unwrap();
        Self::over(stream, builder).await
    }

    /// Sends a request without a body.
    pub async fn begin(&mut self, request: Request<()>) -> ResponseFuture {
        poll_fn(|cx| self.requests.poll_ready(cx)).await.unwrap();
        self.requests.send_request(request, true).unwrap().0
    }

    pub async fn get(&mut self, path: &str) -> Result<Response<RecvStream>, h2::Error> {
        let request = self.begin(get(path)).await;
        within_limit(request).await
    }
}

pub fn get(path: &str) -> Request<()> {
    let request = Request::get(format!("https://localhost{path}"));
    request.body(()).unwrap()
}

/// The next piece of a body.
pub async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = within_limit(body.data()).await?;
    if let Ok(piece) = &piece {
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    Some(piece)
}

/// The error at the end of a body, if there is one.
pub async fn error_of(body: &mut RecvStream) -> Option<h2::Error> {
    loop {
        match within_limit(body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(error),
            None => return None,
        }
    }
}

pub async fn text(mut body: RecvStream) -> String {
    let mut whole = Vec::new();
    while let Some(piece) = piece(&mut body).await {
        whole.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(whole).unwrap()
}

/// An edge that responds to `/stream` with the bodies that the test gets, and to others at once.
pub async fn streaming(
    folder: &Folder,
    config: EdgeConfig,
) -> (Running, mpsc::UnboundedReceiver<Feed>) {
    let (feeds, receiver) = mpsc::unbounded_channel();
    let stack = service_fn(move |request: Request<RequestBody>| {
        let body = match request.uri().path() {
            "/stream" => {
                let (feed, body) = fed();
                feeds.send(feed).unwrap();
                http_body_util::Either::Left(body)
            }
            _ => http_body_util::Either::Right(Full::from("text")),
        };
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    (Running::start(folder.edge(config), stack).await, receiver)
}

/// An edge whose stack never responds; the sender is dropped with each request's future.
pub async fn silent(folder: &Folder) -> (Running, mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (started, requests) = mpsc::unbounded_channel();
    let stack = service_fn(move |request: Request<RequestBody>| {
        let started = started.clone();
        async move {
            let _body = request.into_body();
            let (_alive, gone) = oneshot::channel::<()>();
            started.send(gone).unwrap();
            std::future::pending::<Result<Response<FedBody>, Infallible>>().await
        }
    });
    let config = folder.edge(loopback());
    (Running::start(config, stack).await, requests)
}
