//! Whose requests may leave for a cloud.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Extensions, Request, StatusCode};
use llamatower_layers::api_key::Identity;
use llamatower_layers::live::Live;
use llamatower_layers::llm_request::ModelSource;
use llamatower_layers::{Fail, Failure, LlmRequest, ModelName, Side};

use crate::clients::networks::name_of;
use crate::clients::request_filter::RequestFilter;
use crate::settings::Settings;

/// The clients whose requests may be sent to a cloud. Clones share the rules, which can be changed
/// while the gateway serves.
#[derive(Clone, Debug, Default)]
pub struct CloudClients(Live<Rules>);

#[derive(Debug, Default)]
struct Rules {
    anonymous: bool,
    opted_out: BTreeSet<Arc<str>>,
}

impl CloudClients {
    /// The clients of these settings.
    pub fn new(settings: &Settings) -> Self {
        let clients = Self::default();
        clients.set(settings);
        clients
    }

    /// Replaces the clients by those of other settings.
    pub fn set(&self, settings: &Settings) {
        self.0.set(Rules {
            anonymous: settings.cloud.anonymous,
            opted_out: settings.cloud.keys_opt_out.iter().cloned().collect(),
        });
    }

    /// Checks the client of a request.
    ///
    /// # Errors
    /// Its requests may not be sent to a cloud.
    pub fn check(&self, request: &Extensions) -> Result<(), CloudNotAllowed> {
        let rules = self.0.get();
        // The name of a network may opt out, but is no key.
        if name_of(request).is_some_and(|name| rules.opted_out.contains(name)) {
            return Err(CloudNotAllowed { is_key: true });
        }
        match request.get::<Identity>() {
            None if !rules.anonymous => Err(CloudNotAllowed { is_key: false }),
            _ => Ok(()),
        }
    }
}

/// The client's requests may not be sent to a cloud, and the model runs only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this model runs in Ollama's cloud, and {}",
    match .is_key {
        true => "requests of this key must not be sent to a cloud (LLAMATOWER_CLOUD_KEYS_OPT_OUT, or its permissions in the keys file)",
        false => "requests without a key must not be sent to a cloud; send a key, or ask the \
                  administrator for LLAMATOWER_CLOUD_ANONYMOUS=true",
    }
)]
pub struct CloudNotAllowed {
    is_key: bool,
}

impl Fail for CloudNotAllowed {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::FORBIDDEN
    }
    fn kind(&self) -> &'static str {
        "cloud_not_allowed"
    }
}

/// Refuses requests for models of Ollama's own cloud (`gpt-oss:120b-cloud`) from clients that may not
/// use a cloud. As a filter it stands inside of the aliases, so that it sees the model that an alias
/// stands for.
#[derive(Clone, Debug)]
pub struct OllamaCloudModels(pub CloudClients);

impl OllamaCloudModels {
    /// Whether a request may run a model.
    pub fn allow(&self, request: &Extensions, model: &ModelName) -> bool {
        model.source() != ModelSource::Cloud || self.0.check(request).is_ok()
    }
}

impl RequestFilter for OllamaCloudModels {
    fn filter<B>(&self, request: &mut Request<B>) -> Result<(), Failure> {
        if runs_in_a_cloud(request.extensions()) {
            self.0.check(request.extensions())?;
        }
        Ok(())
    }
}

/// The end of the name of each model in Ollama's cloud.
const ENDING: &[u8] = b"cloud";

/// Whether a request runs a model in Ollama's cloud.
fn runs_in_a_cloud(request: &Extensions) -> bool {
    let llm = LlmRequest::of(request).filter(|llm| llm.operation.is_inference());
    let Some(model) = llm.and_then(|llm| llm.model.as_deref()) else {
        return false;
    };
    let bytes = model.trim_end().as_bytes();
    let end = bytes.len().checked_sub(ENDING.len()).map(|at| &bytes[at..]);
    // Most names do not have to be parsed.
    end.is_some_and(|end| end.eq_ignore_ascii_case(ENDING))
        && ModelName::parse(model).is_ok_and(|name| name.source() == ModelSource::Cloud)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use llamatower_layers::{Dialect, Operation};

    fn asks(model: &str, operation: Operation) -> bool {
        let mut extensions = Extensions::new();
        LlmRequest {
            dialect: Dialect::Ollama,
            operation,
            model: Some(model.into()),
            stream: false,
            keep_alive: None,
            num_ctx: None,
            has_no_prompt: false,
            needs: Default::default(),
            body_bytes: 0,
            prompt_bytes: 0,
            prefix: Default::default(),
            places: Default::default(),
        }
        .put_into(&mut extensions);
        runs_in_a_cloud(&extensions)
    }

    #[test]
    fn models_of_ollamas_cloud_are_known_by_their_names() {
        for model in ["gpt-oss:120b-cloud", "kimi:cloud", "GLM:CLOUD "] {
            assert!(asks(model, Operation::Chat), "{model}");
        }
        for model in ["gpt-oss:20b", "cloud", "soundcloud", "cloud:7b"] {
            assert!(!asks(model, Operation::Chat), "{model}");
        }
        assert!(!asks("kimi:cloud", Operation::Show), "it runs nothing");
    }
}
