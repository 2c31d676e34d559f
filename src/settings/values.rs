//! Types of values that belong to no other module.

use crate::ollama::fleet::SlotRule;
use std::sync::Arc;

use http::Method;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::Budget;

use crate::ollama::fleet::Share;

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

/// A value for each server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerServer<T> {
    /// For servers without an entry of their own.
    pub others: T,
    /// For named servers.
    pub named: Vec<(ServerName, T)>,
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

/// The limits of one key, instead of the general ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests.
    pub rate: Option<Quota>,
    /// Tokens; if empty, the general limit applies.
    pub tokens: Vec<Budget>,
    /// Its share of the slots.
    pub share: Share,
}
