//! Which models clients may use, and by which names: aliases, and the models of single keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Extensions, Request, StatusCode};
use llamatower_layers::api_key::Identity;
use llamatower_layers::live::Live;
use llamatower_layers::model_alias::{Aliases, Candidate};
use llamatower_layers::{Fail, Failure, LlmRequest, ModelName, Operation, RouteMatch, Side};

use crate::clients::networks::name_of;
use crate::clients::request_filter::RequestFilter;
use crate::ollama::fleet::ModelPattern;
use crate::settings::Settings;

type PatternsByKey = BTreeMap<Arc<str>, Arc<[ModelPattern]>>;

/// The rules in force. Clones share them, and they can be changed while the gateway serves.
#[derive(Clone, Debug, Default)]
pub struct ModelRules {
    /// The aliases.
    pub aliases: Live<Aliases>,
    by_key: Live<PatternsByKey>,
    may_unload: Live<BTreeSet<Arc<str>>>,
    lists_aliases: Arc<AtomicBool>,
}

/// What one client may see in lists of models.
#[derive(Clone, Debug, Default)]
pub struct VisibleModels {
    /// `None` if the client may use all models.
    pub(crate) allowed: Option<Arc<[ModelPattern]>>,
    /// The listed aliases, each with its models in order.
    pub aliases: Vec<(Candidate, Vec<Candidate>)>,
}

impl ModelRules {
    /// The rules of these settings.
    pub fn new(settings: &Settings) -> Self {
        let rules = Self::default();
        rules.set(settings);
        rules
    }

    /// Replaces the rules by those of other settings.
    pub fn set(&self, settings: &Settings) {
        let by_key = settings.limits.key_models.iter();
        let by_key = by_key.map(|(name, patterns)| (name.clone(), patterns.as_slice().into()));
        self.by_key.set(by_key.collect());
        let keys = settings.keys_file.keys.iter();
        let may_unload = keys.filter(|(_, entry)| entry.permissions.unload);
        let may_unload = may_unload.map(|(name, _)| name.clone());
        self.may_unload.set(may_unload.collect());
        self.aliases.set(settings.routing.aliases.clone());
        let lists_aliases = settings.routing.list_aliases;
        self.lists_aliases.store(lists_aliases, Ordering::Relaxed);
    }

    /// The models that the client of a request may use; `None` for all.
    fn allowed(&self, request: &Extensions) -> Option<Arc<[ModelPattern]>> {
        let by_key = self.by_key.get();
        if by_key.is_empty() {
            return None;
        }
        by_key.get(name_of(request)?).cloned()
    }

    /// What the client of a request may see.
    pub fn visible(&self, request: &Extensions) -> VisibleModels {
        let mut visible = VisibleModels {
            allowed: self.allowed(request),
            aliases: Vec::new(),
        };
        if self.lists_aliases.load(Ordering::Relaxed) {
            let aliases = self.aliases.get();
            let shown = aliases.iter().filter(|alias| visible.shows(alias.name()));
            let rows = shown.map(|alias| {
                let (name, text) = (alias.name().clone(), alias.text().clone());
                (Candidate { name, text }, aliases.in_listed_order(alias))
            });
            visible.aliases = rows.collect();
        }
        visible
    }

    /// The models of an alias, in the order in which they were given; `None` if the name is none.
    pub fn models_of(&self, name: &str) -> Option<Vec<Candidate>> {
        let aliases = self.aliases.get();
        let alias = aliases.find(name)?;
        Some(aliases.in_listed_order(alias))
    }

    /// Refuses a request for a model that its key may not use.
    fn check_model(&self, request: &Extensions) -> Result<(), Failure> {
        let Some(allowed) = self.allowed(request) else {
            return Ok(());
        };
        let Some(asked) = asked_model(request) else {
            return Ok(());
        };
        // What is not a name is refused elsewhere.
        match ModelName::parse(asked) {
            Ok(name) if !matches(&allowed, &name) => Err(ModelNotAllowed {
                model: asked.into(),
            }
            .into()),
            _ => Ok(()),
        }
    }
}

impl VisibleModels {
    /// Whether a list shows this model.
    pub fn shows(&self, model: &ModelName) -> bool {
        let allowed = self.allowed.as_ref();
        allowed.is_none_or(|allowed| matches(allowed, model))
    }
}

fn matches(patterns: &[ModelPattern], model: &ModelName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(model))
}

/// The model in the body, or in the path of the route that describes one.
fn asked_model(request: &Extensions) -> Option<&str> {
    match RouteMatch::of(request) {
        Some(RouteMatch::Found {
            endpoint,
            parameter,
        }) if endpoint.operation == Operation::Model => parameter.as_deref(),
        _ => LlmRequest::of(request)?.model.as_deref(),
    }
}

/// The key may not use this model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this API key may not use the model '{model}'")]
pub struct ModelNotAllowed {
    model: Box<str>,
}

impl Fail for ModelNotAllowed {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::FORBIDDEN
    }
    fn kind(&self) -> &'static str {
        "model_not_allowed"
    }
}

/// The request's key may send any `keep_alive`, although it may not manage models; an extension of the
/// request.
#[derive(Clone, Copy, Debug)]
pub struct MayUnload;

/// Refuses requests for models that the client's key may not use, and marks those of keys that
/// [`MayUnload`]. As a filter it stands inside of the scan and of the check of keys.
impl RequestFilter for ModelRules {
    fn filter<B>(&self, request: &mut Request<B>) -> Result<(), Failure> {
        self.check_model(request.extensions())?;
        let may_unload = self.may_unload.get();
        if may_unload.is_empty() {
            return Ok(());
        }
        let key = request.extensions().get::<Identity>();
        if key.is_some_and(|key| may_unload.contains(&key.name)) {
            request.extensions_mut().insert(MayUnload);
        }
        Ok(())
    }
}
