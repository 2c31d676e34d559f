//! The servers that a management request names.

use std::num::NonZeroUsize;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use llamatower_layers::llm_request::ModelName;
use llamatower_layers::route::Choice;
use llamatower_layers::{Fail, Failure, Side};
use tokio::time::timeout;

use super::member::Member;
use super::{Fleet, ModelNotFound, Permit};

/// The servers that a management request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// All that the request concerns.
    All,
    /// This number of servers, chosen by the gateway.
    Count(NonZeroUsize),
    /// These, by name or host.
    Named(Vec<String>),
}

/// What a management request does with its model on each server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// It installs the model.
    Install,
    /// It needs the model to be installed.
    Installed,
}

/// The chosen servers: for each its name, its service and its slot.
pub type Chosen<S> = Vec<(Arc<str>, Choice<S, Permit<S>>)>;

/// The targets of a request cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableTargets {
    /// The header is empty or no text.
    #[error("it needs `all`, a number of servers above 0, or names of servers with commas between")]
    NoTargets,
    /// No server has this name.
    #[error("there is no server {name:?}; the servers are {known}")]
    Unknown {
        /// The name in the request.
        name: String,
        /// All names.
        known: String,
    },
    /// Its models cannot be managed.
    #[error("{0} is no Ollama, so its models cannot be managed")]
    NotOllama(Arc<str>),
    /// There are fewer servers.
    #[error("the number of servers that may have this model is only {0}")]
    TooFew(usize),
    /// The number says nothing about which servers to choose.
    #[error("a number of servers is only for a pull; use `all` or names")]
    CountOnlyForPull,
    /// The operation has no targets.
    #[error("only pull, copy and delete can go to several servers")]
    OneServerOnly,
}

impl Fail for UnusableTargets {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "unusable_targets"
    }
}

impl Targets {
    /// Reads `all`, a number, or names with commas between.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str) -> Result<Self, UnusableTargets> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let count = text.parse().map_err(|_| UnusableTargets::NoTargets)?;
            return Ok(Self::Count(count));
        }
        let names = text.split(',').map(str::trim);
        let names: Vec<_> = names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        match names.is_empty() {
            true => Err(UnusableTargets::NoTargets),
            false => Ok(Self::Named(names)),
        }
    }
}

impl<S: Clone> Fleet<S> {
    /// Waits until all models are known that were installed before, at most for the probes'
    /// time-out.
    pub async fn refreshed(&self) {
        let limit = self.config.clocks.timeout;
        let _ = timeout(limit, self.catalogue.refreshed()).await;
    }

    /// The targets of a request, with a slot of each. For a model that must be installed, `All` are
    /// the servers that have it.
    ///
    /// # Errors
    /// The targets cannot be used, or no server has the model.
    pub fn take_targets(
        &self,
        targets: &Targets,
        concern: Concern,
        model: &ModelName,
        request: &Parts,
    ) -> Result<Chosen<S>, Failure> {
        let members = self.targets(targets, concern, model)?;
        if members.is_empty() {
            return Err(ModelNotFound::new(&model.to_string()).into());
        }
        let taken = members
            .iter()
            .map(|member| (member.backend.name().clone(), self.take(member, request)));
        Ok(taken.collect())
    }

    fn targets(
        &self,
        targets: &Targets,
        concern: Concern,
        model: &ModelName,
    ) -> Result<Vec<Arc<Member<S>>>, UnusableTargets> {
        let members = self.catalogue.members();
        let ollamas = members
            .all()
            .iter()
            .filter(|member| member.backend.openai().is_none());
        let has = |member: &Member<S>| {
            let models = member.models();
            models.iter().any(|installed| installed.name == *model)
        };
        match (targets, concern) {
            (Targets::Named(names), _) => self.named(members.all(), names),
            (Targets::All, Concern::Installed) => {
                Ok(ollamas.filter(|member| has(member)).cloned().collect())
            }
            (Targets::All, Concern::Install) => {
                let may = ollamas.filter(|member| member.backend.allows(model));
                Ok(may.cloned().collect())
            }
            (Targets::Count(_), Concern::Installed) => Err(UnusableTargets::CountOnlyForPull),
            (Targets::Count(count), Concern::Install) => {
                let may = ollamas.filter(|member| member.backend.allows(model));
                let mut may: Vec<_> = may.cloned().collect();
                if may.len() < count.get() {
                    return Err(UnusableTargets::TooFew(may.len()));
                }
                // Ollama does not tell its free disk space.
                may.sort_by_cached_key(|member| {
                    let bytes: u64 = member.models().iter().map(|model| model.size).sum();
                    (!has(member), !member.backend.is_up(), bytes)
                });
                may.truncate(count.get());
                Ok(may)
            }
        }
    }

    /// The servers with these names, each once. A host stands for all of its servers.
    fn named(
        &self,
        all: &[Arc<Member<S>>],
        names: &[String],
    ) -> Result<Vec<Arc<Member<S>>>, UnusableTargets> {
        let mut found: Vec<Arc<Member<S>>> = Vec::new();
        for name in names {
            let is_meant = |member: &&Arc<Member<S>>| member.backend.is_called(name);
            let mut meant = all.iter().filter(is_meant).peekable();
            if meant.peek().is_none() {
                let known = all.iter().map(|member| &**member.backend.name());
                return Err(UnusableTargets::Unknown {
                    name: name.clone(),
                    known: known.collect::<Vec<_>>().join(", "),
                });
            }
            for member in meant {
                if member.backend.openai().is_some() {
                    let name = member.backend.name().clone();
                    return Err(UnusableTargets::NotOllama(name));
                }
                if !found.iter().any(|known| Arc::ptr_eq(known, member)) {
                    found.push(member.clone());
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_all_a_number_or_names() {
        assert_eq!(Targets::parse(" ALL "), Ok(Targets::All));
        let two = NonZeroUsize::new(2).unwrap();
        assert_eq!(Targets::parse("2"), Ok(Targets::Count(two)));
        let names = ["gpu-1:11434", "gpu-2"].map(str::to_owned).to_vec();
        assert_eq!(
            Targets::parse("gpu-1:11434, gpu-2,"),
            Ok(Targets::Named(names))
        );
        for wrong in ["", " ", ",", "0", "99999999999999999999999"] {
            assert_eq!(Targets::parse(wrong), Err(UnusableTargets::NoTargets));
        }
    }
}
