//! The clients: an open loop of requests, each sent when it is due.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use llamatower_sim::sleep_until_precisely;
use serde_json::json;

use crate::{
    Error,
    figures::Outcome,
    prompt,
    scenario::{PATIENCE, Scenario},
};

/// The requests of a run, as they ended.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) outcomes: Vec<Outcome>,
    /// The 99th percentile of the delay with which requests were sent, in seconds of the model.
    pub(crate) late: f64,
}

/// Sends the requests of a scenario, in time that runs faster by a factor, and waits for all of
/// them.
pub(crate) async fn drive(
    scenario: &Scenario,
    target: &Client,
    speed: f64,
) -> Result<Driven, Error> {
    let bodies = scenario.jobs.iter().enumerate();
    let bodies: Vec<Bytes> = bodies.map(|(nth, job)| prompt::body(nth, job)).collect();
    let begin = Instant::now() + Duration::from_millis(20);
    let tasks: Vec<_> = scenario
        .jobs
        .iter()
        .zip(bodies)
        .map(|(job, body)| {
            let client = target.clone();
            let due = begin + Duration::from_secs_f64(job.arrival / speed);
            let who = scenario.has_clients.then_some(job.client);
            tokio::spawn(async move {
                sleep_until_precisely(due).await;
                let late = due.elapsed().as_secs_f64() * speed;
                (client.chat(body, who, due, speed).await, late)
            })
        })
        .collect();
    let (mut outcomes, mut late) = (Vec::new(), Vec::new());
    for task in tasks {
        let (outcome, delay) = task.await?;
        outcomes.push(outcome);
        late.push(delay);
    }
    late.sort_by(f64::total_cmp);
    let late = crate::figures::percentile(&late, 0.99);
    Ok(Driven { outcomes, late })
}

/// The secret of a client, which gateways may know it by.
pub(crate) fn key_of(client: usize) -> String {
    format!("llamatower-race-key-of-client-{client:04}")
}

/// A client of a server or a proxy.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    target: SocketAddr,
    http: Arc<legacy::Client<HttpConnector, Full<Bytes>>>,
}

impl Client {
    pub(crate) fn new(target: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Self {
            target,
            http: Arc::new(http),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let uri: Uri = format!("http://{}{path}", self.target).parse()?;
        let request = Request::builder().method(method).uri(uri);
        let request = request.header(CONTENT_TYPE, "application/json");
        Ok(request.body(Full::new(body))?)
    }

    /// The body of an answer to a GET request.
    pub(crate) async fn get(&self, path: &str, key: Option<usize>) -> Result<Bytes, Error> {
        let mut request = self.request(Method::GET, path, Bytes::new())?;
        identify(&mut request, key)?;
        let answer = self.http.request(request).await?;
        if !answer.status().is_success() {
            return Err(format!("GET {path}: {}", answer.status()).into());
        }
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// Loads a model that stays in memory.
    pub(crate) async fn load(&self, model: &str) -> Result<(), Error> {
        let body = json!({"model": model, "keep_alive": -1}).to_string();
        let request = self.request(Method::POST, "/api/generate", body.into())?;
        let answer = self.http.request(request).await?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(format!("the load of {model}: {}", answer.status()).into()),
        }
    }

    /// Sends a chat request and reads the answer. The client gives up if it has no token in time.
    async fn chat(&self, body: Bytes, who: Option<usize>, due: Instant, speed: f64) -> Outcome {
        let mut outcome = Outcome {
            first: None,
            failure: None,
        };
        let patience =
            tokio::time::Instant::from_std(due) + Duration::from_secs_f64(PATIENCE / speed);
        let begun = tokio::time::timeout_at(patience, self.begin(body, who)).await;
        let (first, mut answer) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(failure)) => {
                outcome.failure = Some(failure);
                return outcome;
            }
            Err(_) => {
                outcome.failure = Some("no first token in time".to_owned());
                return outcome;
            }
        };
        outcome.first = Some(due.elapsed().as_secs_f64() * speed);
        let end = patience + Duration::from_secs_f64(PATIENCE / speed);
        outcome.failure = match tokio::time::timeout_at(end, rest(first, &mut answer)).await {
            Ok(ended) => ended.err(),
            Err(_) => Some("no end of the answer in time".to_owned()),
        };
        outcome
    }

    /// The first part of an answer, and the rest of it.
    async fn begin(
        &self,
        body: Bytes,
        who: Option<usize>,
    ) -> Result<(Bytes, Response<Incoming>), String> {
        let request = self.request(Method::POST, "/api/chat", body);
        let mut request = request.map_err(|why| why.to_string())?;
        identify(&mut request, who).map_err(|why| why.to_string())?;
        let mut answer = self
            .http
            .request(request)
            .await
            .map_err(|_| "disconnected")?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(format!("status {status}"));
        }
        loop {
            match answer.body_mut().frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.trim_ascii().is_empty() => return Ok((data, answer)),
                    _ => {}
                },
                Some(Err(_)) => return Err("cut before the first token".to_owned()),
                None => return Err("an empty answer".to_owned()),
            }
        }
    }
}

/// Says who the client is: a key, and the header of proxies that believe their clients.
fn identify(request: &mut Request<Full<Bytes>>, who: Option<usize>) -> Result<(), Error> {
    if let Some(client) = who {
        let key = format!("Bearer {}", key_of(client));
        let headers = request.headers_mut();
        headers.insert(http::header::AUTHORIZATION, key.parse()?);
        headers.insert("x-user-id", format!("client-{client}").parse()?);
    }
    Ok(())
}

/// Reads an answer to its end, which must be the last line of a complete one.
async fn rest(first: Bytes, answer: &mut Response<Incoming>) -> Result<(), String> {
    let mut last = first.to_vec();
    while let Some(frame) = answer.body_mut().frame().await {
        let frame = frame.map_err(|_| "cut within the answer")?;
        if let Ok(data) = frame.into_data() {
            let is_new_line = last.ends_with(b"\n");
            if is_new_line && !data.trim_ascii().is_empty() {
                last.clear();
            }
            last.extend_from_slice(&data);
        }
    }
    let text = String::from_utf8_lossy(&last);
    let line = text.trim_end().rsplit('\n').next().unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    match (&line["done"], &line["error"]) {
        (serde_json::Value::Bool(true), serde_json::Value::Null) => Ok(()),
        (_, serde_json::Value::String(error)) => Err(format!("error {error:?}")),
        _ => Err("an incomplete answer".to_owned()),
    }
}
