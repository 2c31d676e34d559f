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

/// Cordons a server, and waits until no request is in flight there.
///
/// # Errors
/// The gateway cannot be asked, or there is no such server.
pub(crate) async fn drain(
    arguments: &ServerArguments,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let gateway = GatewayClient::new(None, &arguments.gateway, config)?;
    let mut server = set_cordoned(&gateway, &arguments.name, true).await?;
    let mut told = None;
    while server.in_flight > 0 {
        if told != Some(server.in_flight) && !arguments.gateway.json {
            writeln!(
                io::stdout(),
                "{}: requests in flight: {}",
                server.name,
                server.in_flight
            )?;
            told = Some(server.in_flight);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        server = state(&gateway, &arguments.name).await?;
    }
    let name = server.name;
    let page = json!({"name": name, "is_cordoned": true, "in_flight": 0});
    tell(
        arguments.gateway.output(),
        page,
        &format!("{name}: drained"),
    )
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
    let action = format!("{verb} {name}");
    let path = format!("/backends/{name}/{verb}");
    let page = gateway.operate(Method::POST, &path, &action).await?;
    read(&page, &action)
}

/// The server as it is now.
async fn state(gateway: &GatewayClient, name: &str) -> Result<Server, ManageError> {
    #[derive(Deserialize)]
    struct Status {
        backends: Vec<Server>,
    }
    let action = format!("drain {name}");
    let page = gateway.operate(Method::GET, "/status", &action).await?;
    let status: Status = read(&page, &action)?;
    let mut servers = status.backends.into_iter();
    let server = servers.find(|server| server.name == name);
    server.ok_or_else(|| ManageError::Failed {
        action,
        reason: "the server has left the fleet".to_owned(),
    })
}
