//! Errors of aliases, and of requests for them.

use std::sync::Arc;

use http::StatusCode;

use crate::{Fail, Side};

/// Aliases that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AliasError {
    /// A text is not a model's name.
    #[error("{name:?} is not a model's name")]
    InvalidName {
        /// The text.
        name: Arc<str>,
    },
    /// There is no model.
    #[error("{alias} stands for no model; name at least one")]
    NoModel {
        /// The alias.
        alias: Arc<str>,
    },
    /// The only model is the alias.
    #[error("{alias} stands for itself; name another model")]
    OfItself {
        /// The alias.
        alias: Arc<str>,
    },
    /// Two aliases have the same name.
    #[error("{alias} is there twice; list its models in one place")]
    Twice {
        /// The alias.
        alias: Arc<str>,
    },
    /// Aliases stand for each other.
    #[error("aliases stand for each other: {names}; one of them must name a model")]
    Loop {
        /// The aliases, from one to itself.
        names: String,
    },
}

/// None of the models of an alias is there. The beginning of the text is Ollama's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model '{alias}' not found: it stands for {models}, and no server has one of these")]
pub struct AliasNotFound {
    pub(super) alias: Arc<str>,
    pub(super) models: String,
}

impl Fail for AliasNotFound {
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

/// No model of an alias has what the request needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no model of '{alias}' supports what the request needs ({needed}): it stands for {models}")]
pub struct NoCapableModel {
    pub(super) alias: Arc<str>,
    pub(super) models: String,
    pub(super) needed: String,
}

impl Fail for NoCapableModel {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "no_capable_model"
    }
}
