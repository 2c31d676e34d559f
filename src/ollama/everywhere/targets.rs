//! The servers that a management request reaches.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use llamatower_layers::{Fail, Failure, ModelName, Side};

use super::SERVERS;
use super::failed::{FailedServer, ServersFailed};
use crate::ollama::fleet::{
    Backend, Chosen, Concern, Fleet, ModelNotFound, Targets, UnusableTargets,
};

/// The header cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{SERVERS}: {0}")]
struct UnusableHeader(UnusableTargets);

impl Fail for UnusableHeader {
    fn side(&self) -> Side {
        self.0.side()
    }
    fn status(&self) -> StatusCode {
        self.0.status()
    }
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
}

/// The failure with the header's name, if the header is the reason.
pub(super) fn unusable(failure: Failure) -> Failure {
    match failure.caused_by::<UnusableTargets>() {
        Some(targets) => UnusableHeader(targets.clone()).into(),
        None => failure,
    }
}

/// The servers that the header of a request means.
#[derive(Debug)]
pub(super) struct Meant {
    targets: Targets,
    concern: Concern,
}

/// The servers that get a request, and those that cannot be asked.
pub(super) struct Reached<S> {
    pub(super) chosen: Chosen<S>,
    pub(super) unasked: Vec<FailedServer>,
}

impl Meant {
    /// # Errors
    /// The value is wrong.
    pub(super) fn read(value: Option<&HeaderValue>, concern: Concern) -> Result<Self, Failure> {
        let text = value.and_then(|value| value.to_str().ok());
        let targets = Targets::parse(text.unwrap_or_default())?;
        Ok(Self { targets, concern })
    }

    /// The servers, with a slot of each.
    ///
    /// # Errors
    /// The targets cannot be used, or no server has the model.
    pub(super) async fn choose<S: Clone>(
        self,
        fleet: &Fleet<S>,
        model: &ModelName,
        request: &Parts,
    ) -> Result<Reached<S>, Failure> {
        let is_all = self.targets == Targets::All;
        let targets = match self.targets {
            Targets::Named(names) => Targets::Named(without_others(names, &fleet.backends())),
            targets => {
                // The choice depends on what is installed.
                fleet.refreshed().await;
                targets
            }
        };
        let unasked = match is_all && self.concern == Concern::Installed {
            true => unknown(fleet),
            false => Vec::new(),
        };
        match fleet.take_targets(&targets, self.concern, model, request) {
            Ok(chosen) => Ok(Reached { chosen, unasked }),
            Err(failure)
                if !unasked.is_empty() && failure.caused_by::<ModelNotFound>().is_some() =>
            {
                Err(ServersFailed::new(unasked.len(), unasked).into())
            }
            Err(failure) => Err(unusable(failure)),
        }
    }
}

/// The names, where a host stands for its Ollama servers: as with `all`, the models of other servers
/// cannot be managed. The name of such a server itself stays, and is refused.
fn without_others(names: Vec<String>, servers: &[Arc<Backend>]) -> Vec<String> {
    let names = names.into_iter().flat_map(|name| {
        let is_one = servers.iter().any(|server| **server.name() == *name);
        let of_host = servers.iter().filter(|server| server.is_called(&name));
        let ollamas = of_host.filter(|server| server.openai().is_none());
        let ollamas: Vec<_> = ollamas.map(|server| server.name().to_string()).collect();
        match is_one || ollamas.is_empty() {
            true => vec![name],
            false => ollamas,
        }
    });
    names.collect()
}

/// The servers that are down and have never listed their models, so that they may have any.
fn unknown<S>(fleet: &Fleet<S>) -> Vec<FailedServer> {
    let up: Vec<_> = fleet.backends();
    let is_down = |name: &Arc<str>| {
        up.iter()
            .any(|server| server.name() == name && !server.is_up())
    };
    let servers = fleet.managed().into_iter();
    let servers = servers.filter(|server| server.installed().is_empty() && is_down(server.name()));
    let failed = servers.map(|server| FailedServer {
        server: server.name().clone(),
        status: None,
        reason: "it is down, and its models are not known; repeat the request when it is up"
            .to_owned(),
    });
    failed.collect()
}
