//! Values that have no other home.

use std::num::NonZeroUsize;
use std::sync::Arc;

use http::Method;
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::rate_limit::Quota;
use llamatower_layers::token_limit::Budget;

use crate::ollama::fleet::Share;

/// Memory: so many bytes, or a share of the limit of the container or machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SizeOrShare {
    /// In bytes.
    Bytes(u64),
    /// Between 0 and 1.
    Share(f64),
}

impl SizeOrShare {
    /// The memory itself; a share is one of this machine's.
    pub fn budget(self) -> MemoryBudget {
        match self {
            Self::Bytes(bytes) => MemoryBudget::new(bytes),
            Self::Share(share) => MemoryBudget::of_this_machine(share),
        }
    }
}

/// A path that is allowed by a setting, with its methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraPath {
    /// The methods it is asked with.
    pub methods: Vec<Method>,
    /// The exact path.
    pub path: String,
}

/// What one or several of the servers are called by, see [`Address::called`].
///
/// [`Address::called`]: crate::ollama::upstream::Address::called
pub type ServerName = Arc<str>;

/// How many requests a server is sent at a time for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Those of the servers that are not named; as many as come if not set.
    pub others: Option<NonZeroUsize>,
    /// Those of the servers that are.
    pub named: Vec<(ServerName, NonZeroUsize)>,
}

/// How many requests that run no model each client may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListingRate {
    /// A generous number where other requests are limited, else as many as come.
    #[default]
    Auto,
    /// As many as come.
    Off,
    /// So many.
    Of(Quota),
}

impl Slots {
    /// Whether any server has a number of slots, so that requests wait for one.
    pub fn are_counted(&self) -> bool {
        self.others.is_some() || !self.named.is_empty()
    }
}

/// What one key has instead of what most have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests.
    pub rate: Option<Quota>,
    /// Tokens; those for most if there is none.
    pub tokens: Vec<Budget>,
    /// Its share of the slots.
    pub share: Share,
}
