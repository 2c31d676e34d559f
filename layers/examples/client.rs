//! The layers in a client: an application that calls Ollama with retries, stream time-outs and its
//! own rate limit, once around hyper-util's client and once around reqwest.
//!
//!     cargo run -p llamatower-layers --features full --example client -- http://127.0.0.1:11434 tiny

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use llamatower_layers::BoxError;
use llamatower_layers::body::ReplayBody;
use llamatower_layers::clocks::{StreamClocksLayer, StreamClocksRequestBody};
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::retry::{RetryBudget, RetryLayer};
use tower::{Service, ServiceBuilder, ServiceExt};

type Sent = ReplayBody<Empty<Bytes>>;

/// The stack around any client: 100 requests per minute, retries until the first byte of an answer,
/// and time-outs that do not count a long answer as a fault.
fn stack<C, B>(
    client: C,
) -> impl Service<
    Request<Sent>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError>>,
    Error = BoxError,
>
where
    C: Service<Request<StreamClocksRequestBody<Sent>>, Response = Response<B>>
        + Clone
        + Send
        + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let a_hundred = NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN);
    ServiceBuilder::new()
        .layer(RateLimitLayer::global(Quota::per_minute(a_hundred)))
        // A repeated inference has no side effects. A POST is not retried unless this is set.
        .layer(RetryLayer::new(RetryBudget::default()).with_replayable(|_, _| true))
        .layer(
            StreamClocksLayer::new()
                .with_first_byte(Duration::from_secs(120))
                .with_idle(Duration::from_secs(20)),
        )
        .service(client)
}

/// Sends a prompt and returns the text of the answer.
async fn ask<B>(
    client: impl Service<Request<Sent>, Response = Response<B>, Error = BoxError>,
    url: &str,
    model: &str,
) -> Result<String, BoxError>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let question = serde_json::json!({"model": model, "prompt": "Why a tower?"}).to_string();
    let request = Request::post(format!("{url}/api/generate"))
        .header("content-type", "application/json")
        .body(Sent::from(Bytes::from(question)))?;
    let answer = client.oneshot(request).await?;
    let text = answer.into_body().collect().await?.to_bytes();
    let mut words = String::new();
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let line: serde_json::Value = serde_json::from_slice(line)?;
        words.push_str(line["response"].as_str().unwrap_or_default());
    }
    Ok(words)
}

/// reqwest's client has its own request and response types.
fn reqwest_client() -> impl Service<
    Request<StreamClocksRequestBody<Sent>>,
    Response = Response<reqwest::Body>,
    Error = BoxError,
    Future: Send,
> + Clone {
    ServiceBuilder::new()
        .map_response(Response::<reqwest::Body>::from)
        .map_err(BoxError::from)
        .service(reqwest::Client::new())
        .map_request(|request: Request<StreamClocksRequestBody<Sent>>| {
            let request = request.map(reqwest::Body::wrap);
            reqwest::Request::try_from(request).expect("a request with a URL")
        })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or_else(|| "http://127.0.0.1:11434".to_owned());
    let model = arguments.next().unwrap_or_else(|| "tiny".to_owned());
    let hyper = Client::builder(TokioExecutor::new()).build_http();
    println!("hyper-util: {}", ask(stack(hyper), &url, &model).await?);
    println!(
        "reqwest: {}",
        ask(stack(reqwest_client()), &url, &model).await?
    );
    Ok(())
}
