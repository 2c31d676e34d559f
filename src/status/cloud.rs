//! The state of the cloud service.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::cloud::CloudStatus;

/// The cloud service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct CloudState {
    /// Whether requests may be sent to one. If not, the other fields are absent.
    pub is_on: bool,
    /// The service.
    #[serde(flatten)]
    pub service: Option<CloudService>,
}

/// The service that requests may be sent to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CloudService {
    /// Its address.
    pub address: String,
    /// When requests are sent there: `down`, `missing`, `busy`.
    pub when: Vec<String>,
    /// How long it gets no requests; null while it gets some.
    pub rests_for: Option<f64>,
    /// The tokens of this day; those of requests in progress are estimated.
    pub tokens_today: u64,
    /// The limit of the tokens of a day; null if there is none.
    pub tokens_limit: Option<u64>,
}

impl From<Option<&CloudStatus>> for CloudState {
    fn from(cloud: Option<&CloudStatus>) -> Self {
        Self {
            is_on: cloud.is_some(),
            service: cloud.map(|cloud| CloudService {
                address: cloud.address.clone(),
                when: cloud.when.iter().map(|when| (*when).to_owned()).collect(),
                rests_for: cloud.rests_for.map(super::seconds),
                tokens_today: cloud.tokens_today,
                tokens_limit: cloud.tokens_limit.map(NonZeroU64::get),
            }),
        }
    }
}
