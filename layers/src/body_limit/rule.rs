//! What is done with the body of which request.

use http::request::Parts;

use crate::{Operation, RouteMatch};

/// What is done with a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// It is read whole before the request goes on.
    Buffer {
        /// The longest body that is read, in bytes.
        limit: u64,
    },
    /// It is passed on as it comes, however long it is.
    Stream,
}

/// The longest bodies by kind of route, in bytes; what a
/// [`BodyLimitLayer`](super::BodyLimitLayer) goes by unless it is given a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLimits {
    /// Requests to a model: prompts with their images. 128 MiB by default.
    pub inference: u64,
    /// Pull, push, create, copy and delete; `create` may carry a long list of files. 16 MiB by
    /// default.
    pub management: u64,
    /// All else, such as `show`, and what has no known route. 1 MiB by default.
    pub other: u64,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self {
            inference: 128 << 20,
            management: 16 << 20,
            other: 1 << 20,
        }
    }
}

impl RouteLimits {
    /// The rule for a request, by the [`RouteMatch`] in its extensions. Blobs stream.
    pub fn rule(&self, head: &Parts) -> BodyRule {
        let operation = RouteMatch::of(&head.extensions).and_then(RouteMatch::operation);
        let limit = match operation {
            Some(Operation::Blob) => return BodyRule::Stream,
            Some(operation) if operation.is_inference() => self.inference,
            Some(operation) if operation.is_management() => self.management,
            _ => self.other,
        };
        BodyRule::Buffer { limit }
    }
}
