//! What the gateway keeps over a restart.

use std::sync::Arc;

use crate::cloud::Cloud;
use crate::live::LiveSettings;
use crate::settings::Settings;
use crate::shared::{SharedUsage, Sharing};
use crate::state::{ChangeSignal, KeptCordons, Persist, State, StateConfig, Windows};
use crate::usage::Usage;

/// What is kept over a restart.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) state: Arc<State>,
    pub(super) usage: Arc<Usage>,
    pub(super) shared_usage: Option<SharedUsage>,
    pub(super) cordons: Arc<KeptCordons>,
}

impl Kept {
    /// Opens the file, and restores what is in it.
    pub(super) async fn open(
        settings: &Settings,
        live: &LiveSettings,
        cloud: Option<&Cloud>,
        sharing: &Sharing,
    ) -> Self {
        let (zone, signal) = (settings.limits.time_zone.clone(), ChangeSignal::default());
        let usage = Arc::new(Usage::new(zone.clone(), signal.clone()));
        let cordons = Arc::new(KeptCordons::new(signal.clone()));
        let days = settings.state.usage_days.get();
        let redis = sharing.redis().cloned();
        let shared_usage = redis.map(|redis| SharedUsage::new(usage.clone(), redis, days));
        let kept_usage: Arc<dyn Persist> = match &shared_usage {
            Some(shared) => Arc::new(shared.clone()),
            None => usage.clone(),
        };
        let mut sources: Vec<Arc<dyn Persist>> = vec![
            kept_usage,
            Arc::new(Windows::new("tokens", live.tokens.used.own().clone())),
            Arc::new(Windows::new(
                "user_tokens",
                live.user_tokens.used.own().clone(),
            )),
            cordons.clone(),
        ];
        sources.extend(cloud.into_iter().flat_map(Cloud::windows));
        let config = StateConfig {
            directory: settings.state.directory.clone(),
            days,
            zone,
        };
        Self {
            state: State::open(config, signal, sources).await,
            usage,
            shared_usage,
            cordons,
        }
    }
}
