//! The facts about one server.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::DATE;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use llamatower_layers::llm_request::ModelName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ollama::fleet::{Backend, Installed, Resident};
use crate::ollama::upstream::Address;
use crate::openai::models;
use crate::settings::Settings;

/// Time limit for loading a model.
const LONGEST_LOAD: Duration = Duration::from_secs(3600);

/// A server and the results of its queries.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) address: Address,
    pub(super) answers: Result<Answers, Trouble>,
    pub(super) load: Option<Load>,
}

/// The results of a server that responds.
#[derive(Debug)]
pub(super) struct Answers {
    /// `None` for an OpenAI-compatible server.
    pub(super) version: Option<String>,
    pub(super) models: Vec<Installed>,
    pub(super) loaded: Vec<Resident>,
    /// Time until the response to the version query, including the connection.
    pub(super) first_answer: Duration,
    /// Time until the response to the model list query.
    pub(super) listing: Duration,
    /// How far its clock is ahead of this machine's, if it sends `Date`.
    pub(super) clock_ahead: Option<SignedDuration>,
}

/// Why a server does not respond like Ollama.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It cannot be reached; the text is the reason.
    Unreachable(String),
    /// It responded with this status.
    Status(StatusCode),
    /// Its response is not Ollama's; the text names the request.
    NotOllama(String),
    /// It is an OpenAI-compatible server, but its address says that it is an Ollama.
    OpenAi,
}

/// The result of loading a model.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) model: String,
    /// The model was already in memory, so there is no load time.
    pub(super) was_loaded: bool,
    pub(super) took: Result<Duration, String>,
}

impl Facts {
    pub(super) async fn ask(server: &Backend, settings: &Settings) -> Self {
        Self {
            name: server.name().to_string(),
            address: server.address().clone(),
            answers: match answers(server, settings).await {
                Err(Trouble::Status(_) | Trouble::NotOllama(_))
                    if is_openai(server, settings).await =>
                {
                    Err(Trouble::OpenAi)
                }
                answers => answers,
            },
            load: None,
        }
    }

    /// Whether it has a model, as far as known.
    pub(super) fn has(&self, model: &str) -> bool {
        let Ok(name) = ModelName::parse(model) else {
            return false;
        };
        let models = self.answers.iter().flat_map(|answers| &answers.models);
        models.into_iter().any(|installed| installed.name == name)
    }

    /// Loads a model, if the server has it.
    pub(super) async fn load(&mut self, server: &Backend, model: &str, settings: &Settings) {
        if !self.has(model) {
            return;
        }
        let loaded = self.answers.iter().flat_map(|answers| &answers.loaded);
        let name = ModelName::parse(model).ok();
        let is_it = |loaded: &Resident| Some(&loaded.name) == name.as_ref();
        let was_loaded = loaded.into_iter().any(is_it);
        let limit = settings.timeouts.load.unwrap_or_default();
        let body = json!({ "model": model, "stream": false }).to_string();
        let begun = Instant::now();
        let answer = server
            .post("/api/generate", body.into(), limit.max(LONGEST_LOAD))
            .await;
        let took = match answer {
            Ok(answer) if answer.status() == StatusCode::OK => Ok(begun.elapsed()),
            Ok(answer) => Err(format!(
                "it responded with {}: {}",
                answer.status(),
                String::from_utf8_lossy(answer.body()).trim()
            )),
            Err(error) => Err(error.to_string()),
        };
        self.load = Some(Load {
            model: model.to_owned(),
            was_loaded,
            took,
        });
    }

    pub(super) fn json(&self) -> Value {
        let mut row = json!({
            "name": self.name,
            "is_up": self.answers.is_ok(),
            "version": null,
            "models": [],
            "loaded": [],
            "first_answer_seconds": null,
            "listing_seconds": null,
            "clock_ahead_seconds": null,
            "load": self.load.as_ref().map(|load| json!({
                "model": load.model,
                "was_loaded": load.was_loaded,
                "seconds": load.took.as_ref().ok().map(Duration::as_secs_f64),
            })),
        });
        if let Ok(answers) = &self.answers {
            row["version"] = json!(answers.version);
            let models = answers
                .models
                .iter()
                .map(|model| json!({ "name": model.name.to_string(), "digest": &*model.digest }));
            row["models"] = models.collect();
            let loaded = answers.loaded.iter().map(|model| {
                json!({
                    "name": model.name.to_string(),
                    "digest": &*model.digest,
                    "size": model.size,
                    "context_length": model.context_length.unwrap_or_default(),
                })
            });
            row["loaded"] = loaded.collect();
            row["first_answer_seconds"] = json!(answers.first_answer.as_secs_f64());
            row["listing_seconds"] = json!(answers.listing.as_secs_f64());
            let ahead = answers.clock_ahead.map(|ahead| ahead.as_secs());
            row["clock_ahead_seconds"] = json!(ahead);
        }
        row
    }
}

/// Longer than the gateway waits, to distinguish a slow server from a dead one.
pub(super) fn patience(settings: &Settings) -> Duration {
    let limit = settings.backends.probe_timeout;
    limit
        .saturating_add(settings.timeouts.connect)
        .saturating_mul(4)
}

/// Whether a server whose address is that of an Ollama has the list of models of OpenAI's dialect
/// alone.
async fn is_openai(server: &Backend, settings: &Settings) -> bool {
    let limit = patience(settings);
    if server.openai().is_some() || server.models(limit).await.is_ok() {
        return false;
    }
    // The address may be a base path that ends with /v1.
    for path in ["/v1/models", "/models"] {
        let Ok(answer) = server.get(path, limit).await else {
            continue;
        };
        let rows = models::read(answer.body());
        if answer.status() == StatusCode::OK && rows.is_ok_and(|rows| !rows.is_empty()) {
            return true;
        }
    }
    false
}

async fn answers(server: &Backend, settings: &Settings) -> Result<Answers, Trouble> {
    let limit = patience(settings);
    let begun = Instant::now();
    // An OpenAI-compatible server has no version; the list of its models is asked twice.
    let is_ollama = server.openai().is_none();
    let first = if is_ollama {
        "/api/version"
    } else {
        "/api/tags"
    };
    let answer = get(server, first, limit).await?;
    let first_answer = begun.elapsed();
    let clock_ahead = clock_ahead(&answer);
    let version: Option<Version> = match is_ollama {
        true => Some(serde_json::from_slice(answer.body()).map_err(|_| not_ollama(first))?),
        false => None,
    };
    let begun = Instant::now();
    let models = server.models(limit).await;
    let models = models.map_err(|error| Trouble::NotOllama(error.to_string()))?;
    let listing = begun.elapsed();
    let page = get(server, "/api/ps", limit).await?;
    let loaded = Resident::read_list(page.body()).map_err(|_| not_ollama("/api/ps"))?;
    Ok(Answers {
        version: version.map(|version| version.version),
        models,
        loaded,
        first_answer,
        listing,
        clock_ahead,
    })
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

async fn get(
    server: &Backend,
    path: &'static str,
    limit: Duration,
) -> Result<Response<Bytes>, Trouble> {
    let answer = server.get(path, limit).await;
    let answer = answer.map_err(|error| Trouble::Unreachable(error.reason().to_owned()))?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        status => Err(Trouble::Status(status)),
    }
}

fn not_ollama(path: &str) -> Trouble {
    Trouble::NotOllama(format!("its response to {path} is not Ollama's"))
}

/// The time in the field `Date`, in whole seconds, relative to this machine's clock.
fn clock_ahead(answer: &Response<Bytes>) -> Option<SignedDuration> {
    let date = answer.headers().get(DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(theirs.duration_since(Timestamp::now()))
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(_) => f.write_str("cannot be reached"),
            Self::Status(status) => write!(f, "responds with {status}"),
            Self::NotOllama(_) => f.write_str("does not respond like Ollama"),
            Self::OpenAi => f.write_str("responds like an OpenAI-compatible server"),
        }
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = match &self.answers {
            Ok(answers) => answers,
            Err(trouble) => return write!(f, "{}  {trouble}", self.name),
        };
        let version = answers.version.as_ref();
        let kind = version.map_or("OpenAI-compatible".to_owned(), |version| {
            format!("Ollama {version}")
        });
        write!(
            f,
            "{}  {kind}, models: {}, in memory: {}, responded in {:.0?}",
            self.name,
            answers.models.len(),
            answers.loaded.len(),
            answers.first_answer
        )
    }
}
