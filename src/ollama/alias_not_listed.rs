//! No server has a model of an alias, where the alias is looked up and not run.

use std::sync::Arc;

use http::StatusCode;
use llamatower_layers::model_alias::Candidate;
use llamatower_layers::{Fail, Side};

/// No server lists a model of an alias. The text is that of the layer of aliases for requests that
/// run a model ([`AliasNotFound`](llamatower_layers::model_alias::AliasNotFound)).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model '{alias}' not found: it stands for {models}, and no server has one of these")]
pub(super) struct AliasNotListed {
    alias: Arc<str>,
    models: String,
}

impl AliasNotListed {
    pub(super) fn new(alias: &Arc<str>, models: &[Candidate]) -> Self {
        let models: Vec<_> = models.iter().map(|model| &*model.text).collect();
        Self {
            alias: alias.clone(),
            models: models.join(", "),
        }
    }
}

impl Fail for AliasNotListed {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::NOT_FOUND
    }
    fn kind(&self) -> &'static str {
        "model_not_found"
    }
}
