//! `axum::serve` with a stream that breaks: the client receives each line before the error.
//!
//!     cargo run -p llamatower-edge --features axum --example axum_serve
//!     curl -N http://127.0.0.1:4012/
//!
//! curl prints its own address, two lines and then an error. Without the two wrappers it prints no
//! line.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::stream;
use llamatower_edge::axum::{ClientListener, MakeConnectionService};
use tokio::net::TcpListener;

async fn lines(ConnectInfo(client): ConnectInfo<SocketAddr>) -> impl IntoResponse {
    let lines = [
        format!("{{\"client\":\"{client}\"}}\n"),
        "{\"line\":1}\n".to_owned(),
        "{\"line\":2}\n".to_owned(),
    ];
    let error = std::io::Error::other("the backend has gone");
    let lines = lines.into_iter().map(Ok).chain([Err(error)]);
    Body::from_stream(stream::iter(lines))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4012".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/", get(lines));
    let listener = ClientListener::new(listener, Duration::from_secs(60));
    axum::serve(listener, MakeConnectionService::new(app)).await
}
