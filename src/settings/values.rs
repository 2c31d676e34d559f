//! Types of values that belong to no other module.

use crate::ollama::fleet::SlotRule;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::Method;
use llamatower_layers::ModelName;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::Budget;

use super::table::Limits;
use crate::ollama::fleet::{ContextRules, Share};
use crate::ollama::rewrite::KeepAliveLimits;

/// An amount of memory: bytes, or a share of the memory limit of the container or machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SizeOrShare {
    /// In bytes.
    Bytes(u64),
    /// Between 0 and 1.
    Share(f64),
}

impl SizeOrShare {
    /// The memory budget; a share refers to this machine.
    pub fn budget(self) -> MemoryBudget {
        match self {
            Self::Bytes(bytes) => MemoryBudget::new(bytes),
            Self::Share(share) => MemoryBudget::of_this_machine(share),
        }
    }
}

/// An additional allowed path, with its methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraPath {
    /// The allowed methods.
    pub methods: Vec<Method>,
    /// The exact path.
    pub path: String,
}

/// The name of one or several servers, see [`Address::called`].
///
/// [`Address::called`]: crate::ollama::upstream::Address::called
pub type ServerName = Arc<str>;

/// A model, and the server that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedModel {
    /// `None` for each server that has the model.
    pub server: Option<ServerName>,
    /// The model.
    pub model: ModelName,
}

/// A value for each server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerServer<T> {
    /// For servers without an entry of their own.
    pub others: T,
    /// For named servers.
    pub named: Vec<(ServerName, T)>,
}

/// What happens to a context size that differs from that of the model in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumCtx {
    /// The request gets the context in memory, if that is large enough.
    #[default]
    Keep,
    /// The server gets what the client has written.
    Exact,
}

impl Limits {
    /// The rules for the context sizes of requests.
    pub fn context(&self) -> ContextRules {
        ContextRules {
            keeps: self.num_ctx == NumCtx::Keep,
            max: self.max_num_ctx,
        }
    }

    /// The limits of the time that models stay in memory.
    pub fn keep_alive(&self) -> KeepAliveLimits {
        KeepAliveLimits {
            min: self.min_keep_alive,
            max: self.max_keep_alive,
        }
    }
}

/// The limit of each client's requests that run no model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListingRate {
    /// A generous limit if other requests are limited; otherwise none.
    #[default]
    Auto,
    /// No limit.
    Off,
    /// This limit.
    Of(Quota),
}

impl PerServer<SlotRule> {
    /// Whether the slots of any server are counted, so that requests wait for them.
    pub fn are_counted(&self) -> bool {
        let named = self.named.iter().map(|(_, rule)| rule);
        named
            .chain([&self.others])
            .any(|rule| *rule != SlotRule::Off)
    }
}

/// A limit of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyLimit<T> {
    /// The general limit.
    #[default]
    General,
    /// No limit.
    Off,
    /// This limit.
    Of(T),
}

/// The limits of one key, instead of the general ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests.
    pub rate: KeyLimit<Quota>,
    /// Tokens.
    pub tokens: KeyLimit<Vec<Budget>>,
    /// Requests that run at a time.
    pub concurrency: KeyLimit<NonZeroU32>,
    /// Its share of the slots.
    pub share: Share,
}
