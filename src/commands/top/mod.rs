//! `llamatower top`: the status page in a terminal.
//!
//! `connection` follows `/status/events` of the admin listener, `state` holds the documents and
//! what the user has selected, `panes` and `details` make tables and texts of them, and `render`
//! draws these. Only `connection` and `terminal` do I/O.

mod actions;
mod connection;
mod details;
mod head;
mod keys;
mod layout;
mod panes;
mod problems;
mod render;
mod requests;
mod servers;
mod snapshot;
mod state;
mod table;
mod terminal;
mod text;
mod windows;

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::commands::manage::{GatewayClient, ManageError, OperatorArguments};
use state::State;

/// The arguments of `llamatower top`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TopArguments {
    /// Print the state once as plain text, and exit. Without a terminal this is the default.
    #[arg(long)]
    pub once: bool,
    /// How to reach the gateway; with --json the state is printed once.
    #[command(flatten)]
    pub gateway: OperatorArguments,
}

/// Shows a running gateway.
///
/// # Errors
/// The gateway cannot be asked, or the output cannot be written.
pub(crate) async fn run(
    arguments: &TopArguments,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let gateway = GatewayClient::new(None, &arguments.gateway, config)?;
    let as_json = arguments.gateway.json;
    if !arguments.once && !as_json && terminal::is_there() {
        return terminal::run(gateway).await;
    }
    let page = connection::page(&gateway).await?;
    let text = match as_json {
        true => format!(
            "{:#}\n",
            crate::commands::manage::read::<serde_json::Value>(&page, "show the gateway")?
        ),
        false => {
            let mut state = State::new(Timestamp::now(), TimeZone::system());
            state.set(connection::overview(&page)?);
            snapshot::text(&state)
        }
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests;
