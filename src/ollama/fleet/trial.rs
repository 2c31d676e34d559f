//! The gateway's own trial of a model, after the backend was silent with it.
//!
//! The lists of models still answer while a model hangs, so only a generated token shows that the
//! model runs again. The trial asks for a single token, with the context size that the model has in
//! memory, because another size would make Ollama load the model again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use llamatower_layers::ModelName;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Fleet;
use super::backend::{Backend, Unreachable};
use super::member::Member;
use super::outlier::{Outcome, Reason};
use crate::ollama::error_cause::cause_of;
use crate::openai::error::text_of;

/// Time-out of a trial. It includes the load of the model.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(120);

impl<S> Fleet<S> {
    /// Tries the models with which a backend was silent until it responds.
    pub(super) async fn try_silent_models(&self, member: &Arc<Member<S>>) {
        loop {
            member.outliers.silence().await;
            while let Some((model, pause)) = member.outliers.next_silent(Instant::now()) {
                sleep(pause).await;
                let _slot = member.take(None);
                let limit = self.config.clocks.timeout;
                let outcome = match member.backend.try_model(&model, limit).await {
                    Ok(()) => Outcome::GoodTrial,
                    Err(error) => {
                        tracing::debug!(%model, %error, "a trial failed");
                        Outcome::Bad(Reason::Silent, None)
                    }
                };
                member.record_outcome(&model, outcome, Instant::now());
            }
            self.queue.slots_changed();
        }
    }
}

impl Backend {
    /// Lets the backend generate one token. A client's error is a good response too, for example
    /// for a model that only embeds. `limit` is the time-out of the list of models in memory.
    ///
    /// # Errors
    /// No response in time, or a server's error.
    async fn try_model(&self, model: &ModelName, limit: Duration) -> Result<(), Unreachable> {
        let mut options = json!({"num_predict": 1});
        if let Some(num_ctx) = self.context_in_memory(model, limit).await {
            options["num_ctx"] = num_ctx.into();
        }
        let request = json!({
            "model": model.to_string(),
            "messages": [{"role": "user", "content": "1"}],
            "stream": false,
            "options": options,
        });
        let body = Bytes::from(request.to_string());
        let answer = self.post("/api/chat", body, TRIAL_TIMEOUT).await?;
        match answer.status() {
            // The server has read the model's template, or the request, and works.
            StatusCode::INTERNAL_SERVER_ERROR if cause_of(&text_of(answer.body())).is_some() => {
                Ok(())
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(
                Unreachable::new(self.name(), format!("/api/chat answered {status}")),
            ),
            _ => Ok(()),
        }
    }

    /// The context size of a model in memory, in tokens.
    async fn context_in_memory(&self, model: &ModelName, limit: Duration) -> Option<u64> {
        let resident = self.resident(limit).await.ok()??;
        let model = resident.into_iter().find(|row| row.name == *model)?;
        model.context_length
    }
}
