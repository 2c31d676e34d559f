//! The layers under bare hyper: a server of a pretended model that has room for two requests.
//!
//!     cargo run -p llamatower-layers --features full --example bare_hyper
//!     curl -N http://127.0.0.1:4001/api/generate -d '{"model":"parrot","prompt":"hello"}'

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable, RouteMatch};
use tokio::net::TcpListener;
use tower::filter::FilterLayer;
use tower::{Service, ServiceBuilder, service_fn};

/// Says five words, one every 100 ms, as Ollama would.
async fn parrot<B>(
    _: Request<B>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, BoxError> {
    let lines = futures_util::stream::unfold(0, async |number| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let line = match number {
            0..5 => format!("{{\"response\":\"word {number} \",\"done\":false}}\n"),
            5 => "{\"response\":\"\",\"done\":true}\n".to_owned(),
            _ => return None,
        };
        Some((Ok(Frame::data(Bytes::from(line))), number + 1))
    });
    let answer = Response::builder().header("content-type", "application/x-ndjson");
    Ok(answer.body(StreamBody::new(lines))?)
}

/// The stack, from the outside to the inside. What goes wrong inside of `RescueLayer` becomes an
/// answer, so nothing fails.
fn stack<B: Send + 'static>() -> impl Service<
    Request<B>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(RescueLayer::new())
        .layer(PanicGuardLayer::new())
        .layer(FilterLayer::new(RouteMatch::require))
        .layer(AdmissionLayer::new(NonZeroUsize::MIN.saturating_add(1)))
        .service(service_fn(parrot))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4001".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    // Made once: the layers' state is shared by all connections.
    let stack = stack();
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(stack.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            let connection = connection.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("{error}");
            }
        });
    }
}
