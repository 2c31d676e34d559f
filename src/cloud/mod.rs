//! Overflow to a cloud service: an OpenAI-compatible service that answers what the fleet cannot.
//!
//! [`OverflowLayer`] stands around everything that belongs to the fleet: aliases, retries, queue and
//! servers. If the fleet's result is a failure that the settings name (down, missing, busy), and the
//! model and the client are allowed, the request is sent to the service with the name that the model
//! has there. Nothing has been sent to the client by then. If the service cannot answer either, the
//! client gets the fleet's own error.
//!
//! ```text
//! request ── fleet ── answer ─────────────────────────────▶ client
//!              └ down, missing, busy ── Cloud ── answer ──▶
//!                                         └ fails, rests, no tokens left: the fleet's error
//! ```
//!
//! If the probes tell that the servers are down or that the wait is too long, the service is asked
//! first, and the fleet only if the service cannot answer.
//!
//! Lists, descriptions and loads of models are answered in place of servers that are down without the
//! service (`stand_in`), so that programs go on to the request that it answers.
//!
//! The service has its own client and connections ([`leaf`]). It gets the body and no header that
//! describes the client. When it asks to wait ([`Rest`]), it gets no requests until then.

mod broken;
mod clients;
mod leaf;
mod listing;
mod overflow;
mod reason;
mod refused;
mod rest;
mod stand_in;
mod warned;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use llamatower_layers::store::WhenUnavailable;
use llamatower_layers::token_limit::{Budget, Window};
use llamatower_layers::{LlmRequest, ModelName, Operation, Outcome, Record};

use crate::clients::Client;
use crate::clients::model_rules::ModelRules;
use crate::ollama::fleet::estimates::Estimates;
use crate::ollama::upstream::{Access, Address};
use crate::openai::Server;
use crate::openai::models::Model;
use crate::openai::server::Extensions;
use crate::settings::{CloudModels, CloudWhen, Settings};
use crate::shared::{Sharing, Tokens};
use crate::state::{Persist, Windows};
use crate::telemetry::{BudgetUse, names};

pub use broken::{CloudError, EventsBody};
pub use clients::{CloudClients, CloudNotAllowed, OllamaCloudModels};
pub use leaf::leaf;
pub use listing::{Listing, NoList};
pub use overflow::{OverflowLayer, OverflowService};
pub use reason::Reason;
pub use rest::Rest;
use warned::Warned;

/// The host of Groq, which `LLAMATOWER_CLOUD_URL` names by default.
const GROQ_HOST: &str = "api.groq.com";

/// The name of the service in headers, logs and metrics.
pub const NAME: &str = "cloud";

/// The number that stands for no limit of tokens, so that they are counted in any case.
const UNLIMITED: NonZeroU64 = NonZeroU64::MIN.saturating_add((1 << 53) - 2);

/// A client that was told of a model waits for so long a rest, or tries again.
const SHORT_REST: Duration = Duration::from_secs(5);

/// In the record of a request: it was answered by the cloud.
#[derive(Clone, Copy, Debug)]
pub struct SentToCloud(pub Reason);

/// Whether a request that has ended is one of the cloud: it has answered, or the client has disconnected
/// while it worked.
pub fn has_worked_for(outcome: &Outcome) -> bool {
    let was_answered = outcome.extensions.get::<SentToCloud>().is_some();
    was_answered || outcome.unanswered > 0 && outcome.backend.as_deref() == Some(NAME)
}

/// The cloud service of these settings, shared by all requests.
#[derive(Debug)]
pub struct Cloud {
    when: CloudWhen,
    models: CloudModels,
    busy_after: Option<Duration>,
    clients: CloudClients,
    address: Address,
    access: Access,
    server: Arc<Server>,
    rest: Rest,
    warned: Warned,
    /// The tokens of all clients.
    used: Tokens<()>,
    /// The tokens of each client.
    used_by_client: Tokens<Client>,
    deadline: Duration,
    when_unavailable: WhenUnavailable,
    tokens: Option<NonZeroU64>,
    key_tokens: Option<NonZeroU64>,
    /// What the responses of the service usually have.
    estimates: Estimates,
}

/// The state of the cloud service, for operators.
#[derive(Clone, Debug)]
pub struct CloudStatus {
    /// Its address.
    pub address: String,
    /// When requests are sent there.
    pub when: Vec<&'static str>,
    /// How long it gets no requests, because it asked for it or failed.
    pub rests_for: Option<Duration>,
    /// The tokens of this day; those of requests under way are estimated.
    pub tokens_today: u64,
    /// The limit of these tokens.
    pub tokens_limit: Option<NonZeroU64>,
}

impl Cloud {
    /// The service of these settings; `None` if no request may be sent to one.
    ///
    /// # Errors
    /// The key cannot be sent, or the service's certificate cannot be verified. The text names the
    /// setting.
    pub fn new(
        settings: &Settings,
        clients: &CloudClients,
        sharing: &Sharing,
    ) -> Result<Option<Arc<Self>>, String> {
        let (cloud, zone) = (&settings.cloud, &settings.limits.time_zone);
        let key = settings.keys.groq.as_ref();
        let Some(key) = key.filter(|_| cloud.when.is_on() && !cloud.models.is_empty()) else {
            return Ok(None);
        };
        let key = key.expose().parse();
        let key = key.map_err(|reason| format!("GROQ_API_KEY: {reason}"))?;
        let mut access = Access::new(vec![(cloud.url.clone(), key)])
            .with_environment_proxies()
            .with_setting("LLAMATOWER_CLOUD_URL");
        if cloud.url.is_https() {
            let authorities = settings.backends.ca_file.clone().unwrap_or_default();
            let trust = authorities.trust();
            access =
                access.with_trust(trust.map_err(|why| format!("LLAMATOWER_CLOUD_URL: {why}"))?);
        }
        // The address of the settings is that of an OpenAI-compatible server.
        let has_v1 = cloud.url.has_v1();
        let server = Server::new(NAME.into(), has_v1).with_extensions(Extensions::None);
        // Translated requests have the service's names as they are written in the settings.
        server.set_models(
            &cloud
                .models
                .names_there()
                .map(Model::named)
                .collect::<Vec<_>>(),
        );
        Ok(Some(Arc::new(Self {
            when: cloud.when,
            models: cloud.models.clone(),
            busy_after: cloud.busy_after,
            clients: clients.clone(),
            address: cloud.url.clone(),
            access,
            server: Arc::new(server),
            rest: Rest::default(),
            warned: Warned::default(),
            used: sharing.tokens("cloud", zone, |()| "all".to_owned()),
            used_by_client: sharing.tokens("cloud_keys", zone, Client::to_string),
            deadline: sharing.deadline(),
            when_unavailable: sharing.rules().1,
            tokens: cloud.tokens,
            key_tokens: cloud.key_tokens,
            estimates: Estimates::default(),
        })))
    }

    /// The value of `gen_ai.provider.name`.
    fn provider(&self) -> &'static str {
        match self.address.host() == GROQ_HOST {
            true => names::GROQ,
            false => names::OPENAI_COMPATIBLE,
        }
    }

    /// The state, for operators.
    pub fn status(&self) -> CloudStatus {
        let when = [
            (self.when.down, Reason::Down),
            (self.when.missing, Reason::Missing),
            (self.when.busy, Reason::Busy),
        ];
        let when = when.into_iter().filter(|(is_on, _)| *is_on);
        CloudStatus {
            address: self.address(),
            when: when.map(|(_, reason)| reason.name()).collect(),
            rests_for: self.rest.left(),
            tokens_today: self.tokens_today(),
            tokens_limit: self.tokens,
        }
    }

    /// The token windows, to be kept over a restart.
    pub fn windows(&self) -> [Arc<dyn Persist>; 2] {
        [
            Arc::new(Windows::new("cloud", self.used.own().clone())),
            Arc::new(Windows::new(
                "cloud_keys",
                self.used_by_client.own().clone(),
            )),
        ]
    }

    /// Waits until all used tokens are counted.
    pub async fn settled(&self) {
        self.used.settled().await;
        self.used_by_client.settled().await;
    }

    /// The settlements that were dropped because too many waited for Redis.
    pub fn dropped_settlements(&self) -> u64 {
        let dropped = self.used.dropped_settlements();
        dropped.saturating_add(self.used_by_client.dropped_settlements())
    }

    /// Its address, as clients of OpenAI's library write it.
    pub fn address(&self) -> String {
        let v1 = if self.address.has_v1() { "/v1" } else { "" };
        format!("{}{v1}", self.address)
    }

    /// The budget of all clients together.
    fn budget(&self) -> Budget {
        Budget::new(self.tokens.unwrap_or(UNLIMITED), Window::Day)
    }

    /// What is used of the limit of tokens, if there is one.
    pub fn budget_use(&self) -> Option<BudgetUse> {
        Some(BudgetUse {
            budget: NAME,
            key: None,
            window: Window::Day,
            used: self.tokens_today(),
            limit: self.tokens?.get(),
        })
    }

    /// The tokens that are reserved for a response: as many as the request allows, or, if it has no limit, as
    /// many as the client's responses of this model usually have.
    fn expected_output(&self, request: &Parts) -> u64 {
        let llm = LlmRequest::of(&request.extensions);
        let Some(llm) = llm.filter(|llm| llm.operation != Operation::Embed) else {
            return 0;
        };
        let record = Record::of(&request.extensions);
        let limit = record.and_then(|record| record.update(|outcome| outcome.max_tokens));
        limit.unwrap_or_else(|| {
            let model = llm.model.as_deref();
            let model = model.and_then(|model| ModelName::parse(model).ok());
            let client = Client::of(request);
            let estimates = &self.estimates;
            let expected = estimates.expected(model.as_ref(), client.as_ref(), llm.prompt_bytes);
            expected.output_tokens.ceil() as u64
        })
    }

    /// Learns from a request that has ended, if the service has answered it.
    pub fn learn(&self, outcome: &Outcome) {
        if outcome.extensions.get::<SentToCloud>().is_none() {
            return;
        }
        let model = outcome.served_model.as_ref().or(outcome.model.as_ref());
        let model = model.and_then(|model| ModelName::parse(model).ok());
        if let Some((model, usage)) = model.zip(outcome.usage) {
            let client = Client::of_outcome(outcome);
            let bytes = outcome.prompt_bytes.unwrap_or(0);
            let estimates = &self.estimates;
            estimates.record(&model, client.as_ref(), bytes, &usage);
        }
    }

    fn tokens_today(&self) -> u64 {
        self.used.used(Some(&()), Window::Day)
    }

    /// Whether it would answer now: it does not rest for long, and tokens are left.
    fn would_answer(&self) -> bool {
        let rests = self.rest.left().is_some_and(|left| left > SHORT_REST);
        let is_used_up = self
            .tokens
            .is_some_and(|tokens| self.tokens_today() >= tokens.get());
        !rests && !is_used_up
    }

    /// Whether requests are sent for this reason.
    fn is_for(&self, reason: Reason) -> bool {
        match reason {
            Reason::Down => self.when.down,
            Reason::Missing => self.when.missing,
            Reason::Busy => self.when.busy,
        }
    }

    /// The fleet's model and its name in the cloud, for a model or an alias: of an alias the first of
    /// its models that may be sent.
    fn target(&self, asked: &str, rules: &ModelRules) -> Option<(ModelName, Arc<str>)> {
        let find = |name: ModelName| {
            let there = self.models.get(&name)?.clone();
            Some((name, there))
        };
        find(ModelName::parse(asked).ok()?).or_else(|| {
            let models = rules.models_of(asked)?;
            models.into_iter().find_map(|model| find(model.name))
        })
    }
}
