//! A server for a stack, and one call of it.

use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use llamatower_layers::BoxError;
use llamatower_layers::api_key::generate_key;
use tokio::net::TcpListener;
use tower::Service;

/// An API key, and its line in a list of keys.
pub(crate) static KEY: LazyLock<(String, String)> = LazyLock::new(|| {
    let (key, line) = generate_key("ada").expect("the system has random numbers");
    (key.to_string(), line.to_string())
});

pub(crate) const QUESTION: &str = r#"{"model":"tiny","stream":false,"messages":[]}"#;
pub(crate) const ANSWER: &str =
    r#"{"model":"tiny","done":true,"prompt_eval_count":3,"eval_count":5}"#;

/// The innermost service: it reads the request and answers.
pub(crate) async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let question = request.into_body().collect().await.map_err(Into::into)?;
    assert_eq!(question.to_bytes(), QUESTION);
    let answer = Response::builder().header("content-type", "application/json");
    Ok(answer.body(Full::from(ANSWER))?)
}

/// Serves a stack with hyper alone.
pub(crate) async fn serve<S, B>(stack: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(stack.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await
            });
        }
    });
    address
}

/// Serves a router.
pub(crate) async fn serve_router(router: axum::Router) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    (listener, address)
}

/// Sends the question and expects the answer, which has come through tower-http's layers.
pub(crate) async fn expect_answer(address: SocketAddr) {
    let request = reqwest::Client::new()
        .post(format!("http://{address}/api/chat"))
        .header("content-type", "application/json")
        .bearer_auth(&KEY.0)
        .body(QUESTION);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-set-by"], "tower-http");
    assert_eq!(answer.text().await.expect("a whole answer"), ANSWER);
}
