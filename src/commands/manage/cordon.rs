//! `llamatower cordon`, `uncordon` and `drain`.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::arguments::ServerArguments;
use super::error::ManageError;
use super::gateway::GatewayClient;
use super::{read, tell};
use crate::status::SharingState;

/// How often a drain asks whether requests are in flight.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The state of a server.
#[derive(Debug, Deserialize)]
pub(crate) struct Server {
    name: String,
    in_flight: usize,
}

/// Takes a server out of the choice, or back into it.
///
/// # Errors
/// The gateway cannot be asked, or there is no such server.
pub(crate) async fn cordon(
    arguments: &ServerArguments,
    is_cordoned: bool,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let gateway = GatewayClient::new(None, &arguments.gateway, config)?;
    let server = set_cordoned(&gateway, &arguments.name, is_cordoned).await?;
    let (name, in_flight) = (server.name, server.in_flight);
    let text = match is_cordoned {
        true => format!("{name}: cordoned, requests in flight: {in_flight}"),
        false => format!("{name}: no longer cordoned"),
    };
    let page = json!({"name": name, "is_cordoned": is_cordoned, "in_flight": in_flight});
    tell(arguments.gateway.output(), page, &text)
}

/// Cordons a server, and waits until no request of this gateway is in flight there.
///
/// # Errors
/// The gateway cannot be asked, or there is no such server.
pub(crate) async fn drain(
    arguments: &ServerArguments,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let gateway = GatewayClient::new(None, &arguments.gateway, config)?;
    let action = format!("drain {}", arguments.name);
    post(&gateway, &arguments.name, "cordon", &action).await?;
    let mut told = None;
    let (name, others) = loop {
        let (server, sharing) = state(&gateway, &arguments.name).await?;
        let (name, in_flight) = (server.name, server.in_flight);
        if in_flight == 0 {
            break (name, Others::of(sharing));
        }
        if told != Some(in_flight) && !arguments.gateway.json {
            writeln!(io::stdout(), "{name}: requests in flight: {in_flight}")?;
            told = Some(in_flight);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    let page = json!({
        "name": name,
        "is_cordoned": true,
        "in_flight": 0,
        "other_gateways": others.number,
    });
    tell(arguments.gateway.output(), page, &others.text(&name))
}

/// The other gateways, which may have requests at a server that this one has drained.
struct Others {
    number: usize,
    /// The machine and the address of each that is registered in Redis.
    known: Vec<String>,
}

impl Others {
    fn of(sharing: SharingState) -> Self {
        let others = sharing.registered.into_iter().filter(|row| !row.is_this);
        let known: Vec<_> = others
            .map(|row| [row.host, row.address].into_iter().flatten().collect())
            .map(|parts: Vec<_>| parts.join(" "))
            .collect();
        let counted = usize::try_from(sharing.gateways).unwrap_or(usize::MAX);
        Self {
            number: counted
                .saturating_sub(1)
                .max(known.len() + sharing.not_listed),
            known,
        }
    }

    fn text(&self, name: &str) -> String {
        let (there_are, each) = match self.number {
            0 => return format!("{name}: drained"),
            1 => ("there is 1 other".to_owned(), "it"),
            number => (format!("there are {number} others"), "each of them"),
        };
        let known = match self.known.join(", ") {
            known if known.is_empty() => known,
            known => format!(" ({known})"),
        };
        format!(
            "{name}: drained at this gateway; {there_are}{known}, which may still have requests there: run \
             `llamatower drain {name} --admin-url URL` for {each} too"
        )
    }
}

/// Cordons or uncordons a server.
///
/// # Errors
/// The gateway cannot be asked, or there is no such server.
pub(crate) async fn set_cordoned(
    gateway: &GatewayClient,
    name: &str,
    is_cordoned: bool,
) -> Result<Server, ManageError> {
    let verb = if is_cordoned { "cordon" } else { "uncordon" };
    post(gateway, name, verb, &format!("{verb} {name}")).await
}

/// Does something with a server; `action` names it in errors.
async fn post(
    gateway: &GatewayClient,
    name: &str,
    verb: &str,
    action: &str,
) -> Result<Server, ManageError> {
    let path = format!("/backends/{name}/{verb}");
    let page = gateway.operate(Method::POST, &path, action).await?;
    read(&page, action)
}

/// The server as it is now, and the gateways that there are.
async fn state(gateway: &GatewayClient, name: &str) -> Result<(Server, SharingState), ManageError> {
    #[derive(Deserialize)]
    struct Status {
        backends: Vec<Server>,
        #[serde(default)]
        sharing: SharingState,
    }
    let action = format!("drain {name}");
    let page = gateway.operate(Method::GET, "/status", &action).await?;
    let status: Status = read(&page, &action)?;
    let mut servers = status.backends.into_iter();
    let server = servers.find(|server| server.name == name);
    let server = server.ok_or_else(|| ManageError::Failed {
        action,
        reason: "the server has left the fleet".to_owned(),
    })?;
    Ok((server, status.sharing))
}
