//! The layers, each with its peers. To compare a layer, add a function and its name in [`all`].

mod answers;
mod limits;
mod requests;

use llamatower_layers::EndpointTable;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::BodyLimitLayer;
use llamatower_layers::endpoint::EndpointLayer;
use tower::ServiceBuilder;
use tower_layer::{Identity, Stack};

use super::exchange::Backend;
use super::side::Group;

/// All layers that have a peer. Heartbeat, llm_request, queue, route, token_limit and usage have none.
pub(crate) fn all(backend: &Backend) -> Vec<Group> {
    vec![
        answers::clocks(backend),
        answers::retry(backend),
        limits::rate_limit_global(backend),
        limits::rate_limit_per_key(backend),
        limits::admission(backend),
        limits::adaptive(backend),
        limits::breaker(backend),
        answers::panic_guard(backend),
        answers::outcome(backend),
        answers::rescue(backend),
        requests::api_key(backend),
        requests::body_limit(backend),
        requests::cache(backend),
    ]
}

type Endpoints = Stack<EndpointLayer, Identity>;

/// Around layers of ours that need the request's endpoint. It serves all of them, so it is on both
/// sides of the difference.
fn endpoints() -> ServiceBuilder<Endpoints> {
    ServiceBuilder::new().layer(EndpointLayer::new(EndpointTable::ollama()))
}

/// Around layers of ours that need a body which can be sent again.
fn buffering() -> ServiceBuilder<Stack<BodyLimitLayer, Endpoints>> {
    endpoints().layer(body_limit())
}

fn body_limit() -> BodyLimitLayer {
    BodyLimitLayer::new(MemoryBudget::new(1 << 30))
}
