//! A hyper server of a stream that breaks: the client receives each line before the error.
//!
//!     cargo run -p llamatower-edge --example hyper_server
//!     curl -N http://127.0.0.1:4011/
//!
//! curl prints three lines and then an error. Without the two wrappers it prints no line.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use llamatower_edge::{ClientSocket, ConnectionLayer};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};

async fn lines(
    _: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = std::io::Error>>, Infallible> {
    let lines = (1..=3).map(|n| Ok(Frame::data(Bytes::from(format!("{{\"line\":{n}}}\n")))));
    let error = std::io::Error::other("the backend has gone");
    let body = StreamBody::new(stream::iter(lines.chain([Err(error)])));
    Ok(Response::new(body))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4011".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let socket = ClientSocket::new(stream, Duration::from_secs(60));
        let service = ConnectionLayer::new(socket.state()).layer(service_fn(lines));
        let service = TowerToHyperService::new(service);
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            if let Err(error) = connection.await {
                eprintln!("{error}: {:?}", std::error::Error::source(&error));
            }
        });
    }
}
