//! Models that differ between servers although they have the same name.
//!
//! A request names a model, so a client would get different models at different times.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashSet;
use llamatower_layers::ModelName;

use super::inventory::short_digest;
use super::member::Member;

/// A name that stands for different models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The name.
    pub model: ModelName,
    /// The backends that have each digest; the digests are [short](short_digest).
    pub digests: BTreeMap<Box<str>, Vec<Arc<str>>>,
}

impl Drift {
    /// The drift of a model on these backends; `None` if they have the same model, as far as they
    /// send its digest.
    pub(super) fn of<S>(model: &ModelName, holders: &[Arc<Member<S>>]) -> Option<Self> {
        let mut digests: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        for holder in holders {
            let models = holder.models();
            let its_own = models.iter().find(|installed| installed.name == *model);
            let digest = its_own.map(|installed| installed.digest.clone());
            if let Some(digest) = digest.filter(|digest| !digest.is_empty()) {
                let names = digests.entry(digest).or_default();
                names.push(holder.backend.name().clone());
            }
        }
        (digests.len() > 1).then(|| {
            let digests = digests.into_iter();
            Self {
                model: model.clone(),
                digests: digests
                    .map(|(digest, names)| (short_digest(&digest).into(), names))
                    .collect(),
            }
        })
    }
}

/// As `7a037ceac463 (gpu-1:11434), ed29b0964437 (gpu-2:11434, gpu-3:11434)`.
impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (digest, backends)) in self.digests.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{digest} ({})", backends.join(", "))?;
        }
        Ok(())
    }
}

/// The models whose drift was logged.
#[derive(Debug, Default)]
pub(super) struct DriftLog(Mutex<HashSet<ModelName>>);

impl DriftLog {
    /// Logs each drift once, until the model is the same on all backends again.
    pub(super) fn log(&self, drifts: &[Drift]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|model| drifts.iter().any(|drift| drift.model == *model));
        for drift in drifts {
            if known.insert(drift.model.clone()) {
                tracing::warn!(
                    model = %drift.model,
                    digests = %drift,
                    "servers have different models of this name; pull or create it again on all of them"
                );
            }
        }
    }
}
