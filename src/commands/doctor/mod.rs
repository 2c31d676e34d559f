//! `llamatower doctor`: queries the servers, the cloud service and the gateway's listener, and
//! reports which setting to change, here or on a server.
//!
//! It finds and queries servers as the gateway does, with the same names, addresses, tokens,
//! certificates and time-outs. It changes nothing on them, except for `--load`, which loads a
//! model.
//!
//! ```text
//! settings ─ fleet (names resolved, probed once) ─ facts of each server ─┐
//!          ├ a key in Redis ─ facts ─────────────────────────────────────┤
//!          ├ the models that the cloud service lists ─ facts ────────────┤
//!          └ /health of the listener ─ facts ────────────────────────────┴ rules ─ report
//! ```

mod cloud;
mod listener;
mod redis;
mod report;
mod rules;
mod server;
mod slots;
mod unreachable;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::gateway::fleet_config;
use crate::ollama::fleet::Fleet;
use crate::settings::{Loaded, Settings};

pub use report::{Finding, Level, Report};

use server::Facts;

/// Options of the command.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A model to load on each server that has it, to measure the load time.
    pub load: Option<String>,
}

/// Queries all servers, the cloud service and the gateway's own listener.
///
/// # Errors
/// The required certificates cannot be read, or the key of the cloud service cannot be sent; the
/// text names the setting.
pub async fn examine(loaded: &Loaded, options: &Options) -> Result<Report, String> {
    let settings = &loaded.settings;
    let mut report = Report::default();
    report.add_setting_warnings(loaded.all_warnings());
    listener::examine(settings, &mut report).await;
    cloud::examine(settings, &mut report).await?;
    redis::examine(settings, &mut report).await;
    let servers = ask_servers(settings, options).await?;
    rules::apply(settings, options, &servers, &mut report);
    report.take_servers(servers);
    Ok(report)
}

/// The facts of all servers, in the order of the settings; a name may stand for several servers.
async fn ask_servers(settings: &Settings, options: &Options) -> Result<Vec<Facts>, String> {
    let access = settings.backends.access()?;
    let config = fleet_config(settings, &access);
    let limit = config.clocks.timeout.saturating_add(config.clocks.connect);
    let fleet = Fleet::new(settings.backends.urls.clone(), config, |_, _| ());
    let (fleet, stopped) = (Arc::new(fleet), CancellationToken::new());
    let watch = tokio::spawn(fleet.clone().supervise(stopped.clone()));
    // A name that is not resolved in time is queried as a single server, whose error shows the
    // problem.
    let _ = tokio::time::timeout(limit.saturating_mul(2), fleet.probed_once()).await;
    stopped.cancel();
    let _ = watch.await;
    let servers = fleet.backends();
    let asked = servers.iter().map(|server| Facts::ask(server, settings));
    let mut facts = join_all(asked).await;
    if let Some(model) = &options.load {
        // One after the other, because servers may share a disk or a machine.
        for (facts, server) in facts.iter_mut().zip(&servers) {
            facts.load(server, model, settings).await;
        }
    }
    Ok(facts)
}
