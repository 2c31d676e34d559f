//! Where the documents for operators come from.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::activity::Activity as Kept;
use crate::cloud::Cloud;
use crate::edge::Gauges;
use crate::live::LiveSettings;
use crate::model_sync::SyncStatus;
use crate::ollama::fleet::BackendStatus;
use crate::shared::{SharedUsage, Sharing};
use crate::state::State;
use crate::status::{
    Activity, Certificate, CloudState, ExpiringKey, Gateway, KeyRow, Models, ModelsSync, Overview,
    Reload, SharingState, StateFile, Status, WaiterRow,
};
use crate::telemetry::{FleetView, Telemetry};
use crate::tls::Certificates;
use crate::version;

/// The number of waiting requests that operators see.
const WAITERS: usize = 100;

/// Where the documents for operators come from.
pub struct Sources {
    /// The metrics.
    pub telemetry: Arc<Telemetry>,
    /// The backends and the queue.
    pub fleet: Arc<dyn FleetView>,
    /// The requests that have ended.
    pub activity: Arc<Kept>,
    /// The cloud service, if requests may be sent to one.
    pub cloud: Option<Arc<Cloud>>,
    /// The sync of the declared models.
    pub sync: SyncStatus,
    /// The edge of the listeners for clients.
    pub clients: Arc<Gauges>,
    /// What is kept over a restart.
    pub state: Arc<State>,
    /// What gateways share.
    pub sharing: Sharing,
    /// The usage of all gateways, if they share it.
    pub shared_usage: Option<SharedUsage>,
    /// When the gateway started.
    pub started_at: Timestamp,
    /// The address of a trace in a viewer, with `{trace_id}` in place of its id.
    pub trace_url: Option<String>,
    /// The settings that a reload changes.
    pub live: LiveSettings,
    /// The certificate, if there is one.
    pub certificates: Option<Certificates>,
}

impl Sources {
    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub(super) fn fleet(&self) -> &dyn FleetView {
        &*self.fleet
    }

    pub(super) fn gateway(&self) -> Gateway {
        Gateway {
            version: version::VERSION.to_owned(),
            started_at: self.started_at.to_string(),
            in_flight: self.clients.in_flight(),
            connections: self.clients.connections(),
            is_draining: self.clients.is_draining(),
            trace_url: self.trace_url.clone(),
            last_reload: self.live.last_reload.get().as_ref().map(Reload::from),
            expiring_keys: ExpiringKey::all(&self.live.keys_file.get(), Timestamp::now()),
            log_problem: self.telemetry.log_problem(),
            tls: self.certificates.as_ref().map(certificate),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status_of(&self.fleet.status())
    }

    pub(super) fn status_of(&self, backends: &[BackendStatus]) -> Status {
        let queue = self.fleet.queue_status();
        let waiting = queue.iter().map(|row| row.waiting).sum();
        let gateway = self.gateway();
        let now = Instant::now();
        Status {
            backends: backends.iter().map(Into::into).collect(),
            queue: queue.into_iter().map(Into::into).collect(),
            digests_differ: self.fleet.drifts().iter().map(Into::into).collect(),
            cloud: self.cloud(),
            models_sync: ModelsSync::new(&self.sync.report(), now),
            state: StateFile::from(&self.state.health()),
            sharing: SharingState::new(&self.sharing, &gateway, waiting, now),
            gateway,
        }
    }

    pub(super) fn cloud(&self) -> CloudState {
        let status = self.cloud.as_ref().map(|cloud| cloud.status());
        CloudState::from(status.as_ref())
    }

    pub(super) fn waiting(&self) -> Vec<WaiterRow> {
        let waiting = self.fleet.waiting(WAITERS);
        waiting.into_iter().map(Into::into).collect()
    }

    pub(super) fn models(&self) -> Models {
        Models::new(&self.fleet.status(), &self.fleet.drifts())
    }

    pub(super) fn activity(&self) -> Activity {
        Activity::new(&self.activity)
    }

    pub(super) fn keys(&self) -> Vec<KeyRow> {
        KeyRow::all(&self.live)
    }

    pub(super) fn overview(&self) -> Overview {
        let backends = self.fleet.status();
        Overview {
            models: Models::new(&backends, &self.fleet.drifts()).models,
            keys: self.keys(),
            status: self.status_of(&backends),
            waiting: self.waiting(),
            activity: self.activity(),
        }
    }
}

fn certificate(certificates: &Certificates) -> Certificate {
    let status = certificates.status();
    let expires_at = Timestamp::from_second(status.expires_at);
    Certificate {
        expires_at: expires_at.map(|time| time.to_string()).unwrap_or_default(),
        changed_at: status.last_load.as_ref().map(|load| load.at.to_string()),
        error: status.last_load.and_then(|load| load.error),
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}
