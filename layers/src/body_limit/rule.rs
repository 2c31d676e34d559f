//! The rule for a request's body.

use http::request::Parts;

use crate::{Operation, RouteMatch};

/// The rule for a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// The body is buffered before the request is forwarded.
    Buffer {
        /// The size limit of the body, in bytes.
        limit: u64,
    },
    /// The body is forwarded as it arrives, without a size limit.
    Stream,
}

/// The size limits for bodies by type of route, in bytes. The default of a
/// [`BodyLimitLayer`](super::BodyLimitLayer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLimits {
    /// Inference requests, and those that count the tokens of a prompt: prompts with their images.
    /// Default 128 MiB.
    pub inference: u64,
    /// Pull, push, create, copy and delete. `create` may contain a long list of files. Default 16
    /// MiB.
    pub management: u64,
    /// Other routes, such as `show`, and unknown routes. Default 1 MiB.
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
            Some(Operation::CountTokens) => self.inference,
            Some(operation) if operation.is_inference() => self.inference,
            Some(operation) if operation.is_management() => self.management,
            _ => self.other,
        };
        BodyRule::Buffer { limit }
    }
}
