//! The smallest proxy with hyper: a server, a connection pool and nothing between.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use http::{Request, Uri, uri::PathAndQuery};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// Serves until the process ends, with TLS for clients if there is an acceptor.
pub(crate) async fn serve(
    listen: SocketAddr,
    upstreams: Vec<SocketAddr>,
    acceptor: Option<TlsAcceptor>,
) -> Result<(), Error> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build::<_, Incoming>(connector);
    let upstreams: Arc<[SocketAddr]> = upstreams.into();
    let turn = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstreams, turn) = (client.clone(), Arc::clone(&upstreams), Arc::clone(&turn));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let upstream = upstreams[turn.fetch_add(1, Relaxed) % upstreams.len()];
            let uri = towards(upstream, request.uri().path_and_query());
            let client = client.clone();
            async move {
                *request.uri_mut() = uri.map_err(std::io::Error::other)?;
                request.headers_mut().remove(http::header::CONNECTION);
                client.request(request).await.map_err(std::io::Error::other)
            }
        });
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let http = http1::Builder::new();
            // A client that disconnects is not an error of the proxy.
            match acceptor {
                None => {
                    let stream = TokioIo::new(stream);
                    http.serve_connection(stream, service).await.ok();
                }
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let stream = TokioIo::new(stream);
                        http.serve_connection(stream, service).await.ok();
                    }
                }
            }
        });
    }
}

fn towards(upstream: SocketAddr, path: Option<&PathAndQuery>) -> Result<Uri, http::Error> {
    let path = path.map_or("/", PathAndQuery::as_str);
    Uri::builder()
        .scheme("http")
        .authority(upstream.to_string())
        .path_and_query(path)
        .build()
}
