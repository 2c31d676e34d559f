//! A custom layer between two layers of this crate: a client without credit gets the error in the
//! dialect of its route.
//!
//!     cargo run -p llamatower-layers --features full --example custom_layer
//!     curl http://127.0.0.1:4005/v1/models -H 'x-tenant: bob'

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use llamatower_layers::admission::AdmissionLayer;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable, Fail, Failure, Side};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceBuilder, service_fn};

/// The error implements `Fail`; the client reads its `Display`.
#[derive(Debug)]
struct OutOfCredit {
    tenant: String,
}

impl fmt::Display for OutOfCredit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no credit left", self.tenant)
    }
}

impl std::error::Error for OutOfCredit {}

impl Fail for OutOfCredit {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::PAYMENT_REQUIRED
    }
    fn kind(&self) -> &'static str {
        "out_of_credit"
    }
}

/// Admits the tenants on the list.
#[derive(Clone)]
struct CreditLayer {
    tenants: Arc<[&'static str]>,
}

impl<S> Layer<S> for CreditLayer {
    type Service = Credit<S>;

    fn layer(&self, inner: S) -> Credit<S> {
        let tenants = self.tenants.clone();
        Credit { inner, tenants }
    }
}

#[derive(Clone)]
struct Credit<S> {
    inner: S,
    tenants: Arc<[&'static str]>,
}

impl<S, B, R> Service<Request<B>> for Credit<S>
where
    S: Service<Request<B>, Response = R, Error = BoxError>,
{
    type Response = R;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<R, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let tenant = request.headers().get("x-tenant");
        let tenant = tenant
            .and_then(|tenant| tenant.to_str().ok())
            .unwrap_or("anonymous");
        if self.tenants.contains(&tenant) {
            return Either::Left(self.inner.call(request));
        }
        let tenant = tenant.to_owned();
        Either::Right(ready(Err(Failure::from(OutOfCredit { tenant }).into())))
    }
}

fn stack() -> impl Service<
    Request<Incoming>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(RescueLayer::new())
        .layer(CreditLayer {
            tenants: Arc::new(["ada"]),
        })
        .layer(AdmissionLayer::new(NonZeroUsize::MIN))
        .service(service_fn(async |_| {
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("{\"data\":[]}"))))
        }))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4005".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
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
