//! The gateway's own trial of a model, after the backend was silent with it.
//!
//! The lists of models still answer while a model hangs, so only a generated token shows that the
//! model runs again. The trial asks for a single token, with the context size that the model has in
//! memory, because another size would make Ollama load the model again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
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
/// The most models of a backend that are tried at the same time: each trial may load its model.
const MOST_TRIALS: usize = 4;

impl<S> Fleet<S> {
    /// Tries the models with which a backend was silent until it responds. One that hangs does not delay
    /// the trials of the others.
    pub(super) async fn try_silent_models(&self, member: &Arc<Member<S>>) {
        let mut trials = FuturesUnordered::new();
        let mut tried = Vec::new();
        loop {
            while tried.len() < MOST_TRIALS
                && let Some((model, pause)) = member.outliers.next_silent(Instant::now(), &tried)
            {
                tried.push(model.clone());
                trials.push(self.try_silent_model(member, model, pause));
            }
            tokio::select! {
                () = member.outliers.silence() => {}
                Some(model) = trials.next() => tried.retain(|other| *other != model),
            }
        }
    }

    /// Tries a model after a pause, once; returns the model.
    async fn try_silent_model(
        &self,
        member: &Arc<Member<S>>,
        model: ModelName,
        pause: Duration,
    ) -> ModelName {
        sleep(pause).await;
        let is_due = || member.outliers.is_silent_trial_due(&model, Instant::now());
        if !is_due() {
            return model;
        }
        let _slot = member.take(None);
        let limit = self.config.clocks.timeout;
        match member.backend.try_model(&model, limit).await {
            Ok(()) => {
                member.record_outcome(&model, Outcome::GoodTrial, Instant::now());
                self.queue.slots_changed();
            }
            // A client that got a response meanwhile says more.
            Err(error) if is_due() => {
                tracing::debug!(%model, %error, "a trial failed");
                let outcome = Outcome::Bad(Reason::Silent, None);
                member.record_outcome(&model, outcome, Instant::now());
            }
            Err(_) => {}
        }
        model
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_sim::{Fault, FaultKind, ModelSpec, Sim, SimHandle};
    use tokio::time::timeout;

    use super::super::FleetConfig;
    use super::super::outlier::Standing;
    use super::*;

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    /// Runs the trials of a server that was silent with `a` and with `b`, until it responds with `b`. What
    /// clients get from it after the trials have begun is recorded by `meanwhile`.
    async fn until_b_responds(sim: &SimHandle, meanwhile: impl Fn(&Member<()>)) {
        let hosts = vec![sim.addr().to_string().parse().unwrap()];
        let fleet = Fleet::new(hosts, FleetConfig::default(), |_, _| ());
        let member = fleet.catalogue.members().all()[0].clone();
        for name in ["a", "b"] {
            let silent = Outcome::Bad(Reason::Silent, None);
            member.record_outcome(&model(name), silent, Instant::now());
        }
        let b_responds = async {
            meanwhile(&member);
            let standing = || member.outliers.standing(&model("b"), Instant::now());
            while standing() != Standing::Normal {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let until_then = async {
            tokio::select! {
                biased;
                () = fleet.try_silent_models(&member) => {}
                () = b_responds => {}
            }
        };
        timeout(Duration::from_secs(30), until_then).await.unwrap();
    }

    async fn sim() -> SimHandle {
        let builder = Sim::builder().model(ModelSpec::new("a"));
        builder.model(ModelSpec::new("b")).start().await.unwrap()
    }

    #[tokio::test]
    async fn a_model_that_hangs_does_not_delay_the_trial_of_another_one() {
        let sim = sim().await;
        sim.arm(Fault::new(FaultKind::Hang).for_model("a:latest"));
        until_b_responds(&sim, |_| {}).await;
    }

    #[tokio::test]
    async fn a_model_with_which_the_server_responds_to_a_client_is_not_tried() {
        let sim = sim().await;
        let responds_with_a =
            |member: &Member<()>| member.record_outcome(&model("a"), Outcome::Good, Instant::now());
        until_b_responds(&sim, responds_with_a).await;
        let seen = sim.requests();
        let tried = seen.iter().filter(|seen| seen.path() == "/api/chat");
        let tried: Vec<_> = tried.map(|seen| seen.model()).collect();
        assert_eq!(tried, [Some("b:latest")]);
    }
}
