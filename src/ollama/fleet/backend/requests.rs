//! The gateway's own requests to a server: probes, and the pages that it reads.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use llamatower_layers::BoxError;
use serde::Deserialize;
use tower::ServiceExt;

use super::{Backend, ProbeBody, Unreachable};
use crate::ollama::fleet::inventory::{Installed, Resident};
use crate::ollama::fleet::policy::ReportedLoad;
use crate::ollama::hygiene::UNCOMPRESSED;
use crate::openai::gauges;

/// Limit of a list's size. A list of a thousand models is about 500 kB.
const MAX_PAGE_BYTES: usize = 64 * 1024 * 1024;

/// The paths of the lists that probes read.
const LISTS: [&str; 2] = ["/api/tags", "/api/ps"];

impl Backend {
    /// Requests the installed models, and records whether the backend is up.
    ///
    /// # Errors
    /// No valid list in time.
    pub async fn probe(&self, limit: Duration) -> Result<Vec<Installed>, Unreachable> {
        let (found, health) = tokio::join!(self.models(limit), self.health(limit));
        let found = health.and(found);
        let failed_before = self.probe_failed.swap(found.is_err(), Ordering::Relaxed);
        match &found {
            Err(error) if failed_before => {
                tracing::debug!(backend = %self.name, %error, "the probe failed");
            }
            Err(error) => tracing::warn!(backend = %self.name, %error, "the probe failed"),
            Ok(_) => {}
        }
        self.set_up(found.is_ok());
        self.set_silent(found.as_ref().is_err_and(|error| error.is_silent));
        self.probe_client.get_ref().prune();
        if let Some(act) = self.after_probe.get() {
            act();
        }
        found
    }

    /// The installed models, from `/api/tags`.
    ///
    /// # Errors
    /// No valid list in time.
    pub async fn models(&self, limit: Duration) -> Result<Vec<Installed>, Unreachable> {
        let page = self.page("/api/tags", limit).await?;
        Installed::read_list(&page).map_err(|error| {
            self.unreachable(format!(
                "the response to /api/tags is not a list of models: {error}"
            ))
        })
    }

    /// The models in memory, from `/api/ps`. `None` if the server has no such list: it is not an
    /// Ollama, or an old one.
    ///
    /// # Errors
    /// No response in time, or a status other than 200, 404 and 405.
    pub async fn resident(&self, limit: Duration) -> Result<Option<Vec<Resident>>, Unreachable> {
        const PATH: &str = "/api/ps";
        let answer = self.get(PATH, limit).await?;
        match answer.status() {
            StatusCode::OK => Ok(Resident::read_list(answer.body()).ok()),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            status => Err(self.unreachable(format!("{PATH} answered {status}"))),
        }
    }

    /// The version that the server tells, if it does so in time.
    pub(super) async fn read_version(&self, limit: Duration) -> Option<String> {
        #[derive(Deserialize)]
        struct Page {
            version: String,
        }
        let page = self.page("/api/version", limit).await.ok()?;
        let page: Page = serde_json::from_slice(&page).ok()?;
        Some(page.version)
    }

    /// Asks an OpenAI-compatible server how it is. vLLM and llama.cpp answer 503 while they load a
    /// model or after their engine has failed; others have no such page, or protect it. Only the list
    /// of models shows whether the server can be reached.
    ///
    /// # Errors
    /// The page has the status of a server's error.
    async fn health(&self, limit: Duration) -> Result<(), Unreachable> {
        if self.openai.is_none() {
            return Ok(());
        }
        let Ok(answer) = self.get("/health", limit).await else {
            return Ok(());
        };
        let status = answer.status();
        match status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            true => {
                let text = crate::openai::error::text_of(answer.body());
                Err(self.unreachable(format!("/health answered {status}: {text}")))
            }
            false => Ok(()),
        }
    }

    /// Asks an OpenAI-compatible server how many requests it has; `None` if it does not tell. One
    /// without such a page is not asked again until it has come up again.
    pub(in crate::ollama::fleet) async fn reported_load(
        &self,
        limit: Duration,
    ) -> Option<ReportedLoad> {
        if self.openai.is_none() || self.lacks_gauges.load(Ordering::Relaxed) {
            return None;
        }
        let answer = self.get("/metrics", limit).await.ok()?;
        let (status, page) = (answer.status(), String::from_utf8_lossy(answer.body()));
        let lacks = match status {
            // LM Studio answers an unknown path like that.
            StatusCode::OK => !gauges::is_page(&page),
            // llama.cpp without `--metrics`.
            StatusCode::NOT_IMPLEMENTED => true,
            status => !status.is_server_error(),
        };
        self.lacks_gauges.store(lacks, Ordering::Relaxed);
        let load = (status == StatusCode::OK).then(|| gauges::read(&page))?;
        self.has_gauges.store(load.is_some(), Ordering::Relaxed);
        load
    }

    /// Requests a page by GET; `limit` is the time-out of the whole exchange.
    ///
    /// # Errors
    /// No response with status 200 in time.
    pub async fn page(&self, path: &'static str, limit: Duration) -> Result<Bytes, Unreachable> {
        let answer = self.get(path, limit).await?;
        let advice = match answer.status() {
            StatusCode::OK => return Ok(answer.into_body()),
            // Only the check of the name responds without a text.
            StatusCode::FORBIDDEN if answer.body().is_empty() => {
                "; an Ollama that listens on loopback alone responds like this if it is called by \
                 another name: set OLLAMA_HOST=0.0.0.0 there, or call it by 127.0.0.1 or localhost in \
                 OLLAMA_URL; otherwise its token in LLAMATOWER_BACKEND_TOKENS is wrong or missing"
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; its token in LLAMATOWER_BACKEND_TOKENS is wrong or missing"
            }
            _ => "",
        };
        Err(self.unreachable(format!("{path} answered {}{advice}", answer.status())))
    }

    /// Sends a GET request and accepts any status; `limit` is the time-out of the whole exchange.
    ///
    /// # Errors
    /// No response in time.
    pub async fn get(
        &self,
        path: &'static str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let request = Request::get(path).body(ProbeBody::empty());
        let answer = self.exchange(request, path, limit).await?;
        if LISTS.contains(&path) && answer.status() == StatusCode::OK {
            self.keep_list(path, answer.body().clone());
        }
        Ok(answer)
    }

    /// Sends a POST request with a JSON body, otherwise like [`get`](Self::get).
    ///
    /// # Errors
    /// No response in time.
    pub async fn post(
        &self,
        path: &'static str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        self.exchange(request.body(ProbeBody::from(body)), path, limit)
            .await
    }

    async fn exchange(
        &self,
        request: http::Result<Request<ProbeBody>>,
        path: &'static str,
        limit: Duration,
    ) -> Result<Response<Bytes>, Unreachable> {
        let fetched = async {
            let mut request = request?;
            request.headers_mut().insert(ACCEPT_ENCODING, UNCOMPRESSED);
            let answer = self.probe_client.clone().oneshot(request).await?;
            let (head, body) = answer.into_parts();
            let page = Limited::new(body, MAX_PAGE_BYTES).collect().await?;
            Ok(Response::from_parts(head, page.to_bytes()))
        };
        let fetched: Result<Result<_, BoxError>, _> = tokio::time::timeout(limit, fetched).await;
        match fetched {
            Ok(answer) => answer.map_err(|error| self.unreachable(error).silent()),
            Err(_) => Err(Unreachable::late(&self.name, path, limit)),
        }
    }

    fn unreachable(&self, reason: impl fmt::Display) -> Unreachable {
        Unreachable::new(&self.name, reason)
    }
}
