//! The Ollama servers, for the gateway's own management of their models.

use std::fmt;
use std::sync::Arc;

use llamatower_layers::ModelName;
use llamatower_layers::route::Choice;

use super::member::Member;
use super::{Fleet, Permit};

/// An Ollama server of the fleet.
pub struct Managed<S>(Arc<Member<S>>);

impl<S> Fleet<S> {
    /// All Ollama servers, in the order of the configuration.
    pub fn managed(&self) -> Vec<Managed<S>> {
        let members = self.catalogue.members();
        let all = members.all().iter();
        let ollamas = all.filter(|member| member.backend.openai().is_none());
        ollamas.cloned().map(Managed).collect()
    }
}

impl<S> Managed<S> {
    /// Its displayed name.
    pub fn name(&self) -> &Arc<str> {
        self.0.backend.name()
    }

    /// Whether an operator means it by `name`.
    pub fn is_called(&self, name: &str) -> bool {
        self.0.backend.is_called(name)
    }

    /// Whether it is up, its models are known, and no operator has taken it out of the choice.
    pub fn is_ready(&self) -> bool {
        let backend = &self.0.backend;
        backend.is_up() && !backend.is_cordoned() && self.0.was_probed()
    }

    /// How often it has come up.
    pub fn ups(&self) -> u64 {
        self.0.backend.starts().ups
    }

    /// The models on its disk, as last read.
    pub fn installed(&self) -> Vec<ModelName> {
        let models = self.0.models();
        models.iter().map(|model| model.name.clone()).collect()
    }

    /// Its service and a slot. The request does not wait, even if no slot is free.
    pub(crate) fn take(&self) -> Choice<S, Permit<S>>
    where
        S: Clone,
    {
        Choice {
            service: self.0.service.own_instance(),
            slot: Permit::unqueued(self.0.take(None)),
        }
    }
}

impl<S> Clone for Managed<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> fmt::Debug for Managed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.name(), f)
    }
}
