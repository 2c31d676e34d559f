//! The settings of the cloud: when a request is sent there, as which model, and where.

use std::collections::BTreeSet;
use std::sync::Arc;

use llamatower_layers::ModelName;

use super::parse::{Parsed, backend, items, one_of};
use crate::ollama::upstream::Address;

/// When requests are sent to the cloud. By default never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloudWhen {
    /// All servers that could answer are down or fail.
    pub down: bool,
    /// No server has the model.
    pub missing: bool,
    /// The wait for a slot is too long.
    pub busy: bool,
}

impl CloudWhen {
    const DOWN: Self = Self {
        down: true,
        missing: false,
        busy: false,
    };
    const MISSING: Self = Self {
        down: false,
        missing: true,
        busy: false,
    };
    const BUSY: Self = Self {
        down: false,
        missing: false,
        busy: true,
    };

    /// Whether any request can be sent.
    pub fn is_on(self) -> bool {
        self != Self::default()
    }

    fn or(self, other: Self) -> Self {
        Self {
            down: self.down | other.down,
            missing: self.missing | other.missing,
            busy: self.busy | other.busy,
        }
    }
}

/// The reasons in a text like `down, missing`, or `off`.
pub(super) fn cloud_when(text: &str) -> Parsed<CloudWhen> {
    const REASONS: [(&str, CloudWhen); 3] = [
        ("down", CloudWhen::DOWN),
        ("missing", CloudWhen::MISSING),
        ("busy", CloudWhen::BUSY),
    ];
    if text.is_empty() || text == "off" {
        return Ok(CloudWhen::default());
    }
    let mut reasons = items(text).map(one_of(&REASONS));
    reasons.try_fold(CloudWhen::default(), |all, one| Ok(all.or(one?)))
}

/// The models that may be sent to the cloud, and their names there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudModels(Vec<(ModelName, Arc<str>)>);

impl CloudModels {
    /// The name of a model in the cloud; `None` if it is not sent there.
    pub fn get(&self, model: &ModelName) -> Option<&Arc<str>> {
        let mut models = self.0.iter();
        let found = models.find(|(name, _)| name == model);
        found.map(|(_, there)| there)
    }

    /// The names of the models.
    pub fn names(&self) -> impl Iterator<Item = &ModelName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The names of all models in the cloud, each once.
    pub fn names_there(&self) -> impl Iterator<Item = &str> {
        let names: BTreeSet<&str> = self.0.iter().map(|(_, there)| &**there).collect();
        names.into_iter()
    }

    /// Whether there is no model.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The models in a text like `qwen2.5-coder:7b=openai/gpt-oss-20b`.
pub(super) fn cloud_models(text: &str) -> Parsed<CloudModels> {
    let mut models = CloudModels::default();
    for item in items(text) {
        let parts = item.split_once('=');
        let (model, there) = parts
            .ok_or_else(|| format!("{item:?} is not like qwen2.5-coder:7b=openai/gpt-oss-20b"))?;
        let name = |text: &str| {
            let name = ModelName::parse(text.trim());
            name.map_err(|error| format!("{item:?}: {error}"))
        };
        let model = name(model)?;
        // Services name their models in the same form; the name is sent as it is written here.
        name(there)?;
        if models.get(&model).is_some() {
            return Err(format!("{model} is given twice"));
        }
        models.0.push((model, there.trim().into()));
    }
    Ok(models)
}

/// The base address of the cloud service, as clients of OpenAI's library write it.
pub(super) fn cloud_url(text: &str) -> Parsed<Address> {
    const OPENAI: &str = "openai+";
    if !text.contains("://") {
        return Err("it must begin with https:// or http://".to_owned());
    }
    match text.starts_with(OPENAI) {
        true => backend(text),
        false => backend(&format!("{OPENAI}{text}")),
    }
}
