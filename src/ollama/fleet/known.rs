//! What the fleet knows of models, for the choice among the models of an alias.

use std::sync::Arc;

use llamatower_layers::model_alias::{Asked, ExpectedTime, KnownModels, Needs};
use llamatower_layers::queue::Line;
use llamatower_layers::retry::Attempts;
use llamatower_layers::{LlmRequest, ModelName};
use tokio::time::Instant;

use super::dispatch::view;
use super::member::Member;
use super::policy::ServerId;
use super::{Fleet, body_bytes};
use crate::clients::Client;

/// A fleet's knowledge of its models.
#[derive(Clone, Debug)]
pub struct FleetModels<S>(pub Arc<Fleet<S>>);

impl<S: Send + Sync> KnownModels for FleetModels<S> {
    /// A server that does not tell the capabilities of its models may have all of them.
    fn lacks(&self, model: &ModelName, needs: Needs) -> bool {
        if needs == Needs::default() {
            return false;
        }
        let members = self.0.catalogue.members();
        let holders = members.holders(model);
        !holders.is_empty() && holders.iter().all(|holder| lacks(holder, model, needs))
    }

    fn is_missing(&self, model: &ModelName) -> bool {
        self.0.catalogue.members().holders(model).is_empty()
    }

    fn is_down(&self, model: &ModelName) -> bool {
        self.0.catalogue.members().is_down(model)
    }

    fn is_resident(&self, model: &ModelName) -> bool {
        let members = self.0.catalogue.members();
        let is_up = |id: ServerId| {
            let member = members.by_id(id);
            member.is_some_and(|member| member.backend.is_up())
        };
        self.0
            .router
            .change(|policy| policy.is_resident_anywhere(model, is_up))
    }

    fn expected(&self, model: &ModelName, asked: &Asked<'_>) -> Option<ExpectedTime> {
        let members = self.0.catalogue.members();
        let need = asked.request.map(|request| {
            let parsed = LlmRequest::of(&request.extensions);
            let (client, bytes) = (Client::of(request), body_bytes(parsed));
            let expected = self
                .0
                .estimates
                .expected(Some(model), client.as_ref(), bytes);
            let attempts = Attempts::of(&request.extensions);
            self.0.need(expected, parsed, attempts)
        });
        let need = need.unwrap_or_default();
        let mut line = Line::arriving(Instant::now());
        self.0.router.change(|policy| {
            line.waiting = policy.waiting(model) + 1;
            let ask = need.ask(model, line);
            policy.expected(&ask, |id| view(members.by_id(id)?, &ask, &[]))
        })
    }
}

fn lacks<S>(holder: &Member<S>, model: &ModelName, needs: Needs) -> bool {
    let installed = holder.models();
    let Some(installed) = installed.iter().find(|installed| installed.name == *model) else {
        return false;
    };
    let can = &installed.capabilities;
    let mut needed = needs.capabilities();
    !can.is_empty() && needed.any(|needed| can.iter().all(|known| **known != *needed))
}
