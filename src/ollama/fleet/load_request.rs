//! The request that loads a model and generates nothing.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::backend::Backend;
use super::inventory::Installed;

const GENERATE: &str = "/api/generate";
const EMBED: &str = "/api/embed";

impl Backend {
    /// Loads a model, with the server's own `keep_alive` or for ever. Returns the time of the load,
    /// if the server tells it. `limit` is the time-out.
    ///
    /// # Errors
    /// What the server said, and what to do.
    pub(super) async fn load_model(
        &self,
        model: &Installed,
        for_ever: bool,
        limit: Duration,
    ) -> Result<Option<Duration>, String> {
        let can = |what: &str| model.capabilities.iter().any(|can| **can == *what);
        if can("embedding") && !can("completion") {
            return self.load_by(EMBED, model, for_ever, limit).await.1;
        }
        let (status, loaded) = self.load_by(GENERATE, model, for_ever, limit).await;
        // A model that only embeds, on a server that does not tell what a model can do.
        if status == Some(StatusCode::BAD_REQUEST) && model.capabilities.is_empty() {
            return self.load_by(EMBED, model, for_ever, limit).await.1;
        }
        loaded
    }

    async fn load_by(
        &self,
        path: &'static str,
        model: &Installed,
        for_ever: bool,
        limit: Duration,
    ) -> (Option<StatusCode>, Result<Option<Duration>, String>) {
        let mut body = json!({ "model": model.name.to_string() });
        match path {
            // Without a text newer versions answer at once and load nothing.
            EMBED => body["input"] = json!("1"),
            _ => body["stream"] = json!(false),
        }
        if for_ever {
            body["keep_alive"] = json!(-1);
        }
        let answer = self.post(path, Bytes::from(body.to_string()), limit).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let reason = error.reason();
                let told = format!(
                    "{reason}; see Ollama's log on that server, or raise LLAMATOWER_LOAD_TIMEOUT if the \
                     load takes longer"
                );
                return (None, Err(told));
            }
        };
        let status = answer.status();
        let result = match status {
            StatusCode::OK => Ok(load_duration(answer.body())),
            _ => Err(format!(
                "{path} answered {status}: {}; see Ollama's log on that server",
                error_text(answer.body())
            )),
        };
        (Some(status), result)
    }
}

/// The time of the load, in nanoseconds in the response.
fn load_duration(body: &[u8]) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Answer {
        load_duration: Option<u64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    answer.load_duration.map(Duration::from_nanos)
}

/// The text of an error, at most 200 characters.
fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    let text = match serde_json::from_slice::<Answer>(body) {
        Ok(answer) => answer.error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.trim().chars().take(200).collect()
}
