//! A custom layer between two of this crate: its error is sent in the dialect of the route.
//!
//!     cargo run -p llamatower-layers --features full --example custom_layer
//!     curl http://127.0.0.1:4005/v1/models -H 'x-tenant: bob'

use std::task::{Context, Poll};

use axum::Router;
use futures_util::future::{Either, Ready, err};
use http::{Request, StatusCode};
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable, Fail, Failure, Side};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, layer::layer_fn};

#[derive(Debug, thiserror::Error)]
#[error("this tenant has no credit left")]
struct OutOfCredit;

#[rustfmt::skip]
impl Fail for OutOfCredit {
    fn side(&self) -> Side { Side::Client }
    fn status(&self) -> StatusCode { StatusCode::PAYMENT_REQUIRED }
    fn kind(&self) -> &'static str { "out_of_credit" }
}

#[derive(Clone)]
struct CreditService<S>(S);

impl<B, S: Service<Request<B>, Error = BoxError>> Service<Request<B>> for CreditService<S> {
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match request.headers().get("x-tenant") {
            Some(tenant) if tenant == "ada" => Either::Left(self.0.call(request)),
            _ => Either::Right(err(Failure::from(OutOfCredit).into())),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4005".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}", listener.local_addr()?);
    let layers = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(RescueLayer::new())
        .layer(layer_fn(CreditService))
        .layer(PanicGuardLayer::new());
    let router = Router::new()
        .fallback(async || "{\"data\":[]}")
        .layer(layers);
    axum::serve(listener, router).await?;
    Ok(())
}
