//! `llamatower doctor`: asks the servers and whatever listens, and says which setting of which side
//! to change.
//!
//! Servers are found and asked as the gateway does it: by the same names, addresses, tokens,
//! certificates and clocks. Nothing is changed on them, but for `--load`, which loads a model.
//!
//! ```text
//! settings ─ fleet (names resolved, probed once) ─ facts of each server ─┐
//!          └ /health of the listener ─ facts ────────────────────────────┴ rules ─ report
//! ```

mod listener;
mod report;
mod rules;
mod server;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::gateway::fleet_config;
use crate::ollama::fleet::Fleet;
use crate::settings::{Loaded, Settings};

pub use report::{Finding, Level, Report};

use server::Facts;

/// What is asked for beside the usual.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// A model that each server that has it loads, to see how long that takes.
    pub load: Option<String>,
}

/// Asks all servers and the gateway's own listener.
///
/// # Errors
/// The certificates that are needed cannot be read; the text says of which setting.
pub async fn examine(loaded: &Loaded, wishes: &Wishes) -> Result<Report, String> {
    let settings = &loaded.settings;
    let mut report = Report::default();
    report.warn_of_settings(loaded.all_warnings());
    listener::examine(settings, &mut report).await;
    let servers = ask_servers(settings, wishes).await?;
    rules::judge(settings, wishes, &servers, &mut report);
    report.take_servers(servers);
    Ok(report)
}

/// The facts of all servers, in the order of the settings; a name may stand for several.
async fn ask_servers(settings: &Settings, wishes: &Wishes) -> Result<Vec<Facts>, String> {
    let access = settings.backends.access()?;
    let config = fleet_config(settings, &access);
    let limit = config.clocks.timeout + config.clocks.connect;
    let fleet = Fleet::new(settings.backends.urls.clone(), config, |_, _| ());
    let (fleet, stopped) = (Arc::new(fleet), CancellationToken::new());
    let watch = tokio::spawn(fleet.clone().supervise(stopped.clone()));
    // A name that is not resolved in time is asked as it stands, which says what is wrong.
    let _ = tokio::time::timeout(limit * 2, fleet.probed_once()).await;
    stopped.cancel();
    let _ = watch.await;
    let servers = fleet.backends();
    let asked = servers.iter().map(|server| Facts::ask(server, settings));
    let mut facts = join_all(asked).await;
    if let Some(model) = &wishes.load {
        // One after the other: servers may share a disk, or be one machine.
        for (facts, server) in facts.iter_mut().zip(&servers) {
            facts.load(server, model, settings).await;
        }
    }
    Ok(facts)
}
