//! `llamatower models`: manages the models of all servers through a running gateway.

mod arguments;
mod cordon;
mod error;
mod gateway;
mod list;
mod progress;
mod sync;
mod usage;

use std::io::{self, Write};
use std::path::Path;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use arguments::Output;
pub use arguments::{ModelsArguments, ModelsCommand, OperatorArguments, ServerArguments};
pub(crate) use cordon::{cordon, drain, set_cordoned};
pub(crate) use error::ManageError;
pub(crate) use gateway::{GatewayClient, Lines, error_text, one_key, read_key};
use list::ModelsPage;
use progress::{Progress, Step};
pub use usage::UsageArguments;
pub(crate) use usage::usage;

/// Runs a command for models.
///
/// # Errors
/// The gateway cannot be asked, or the command failed on a server.
pub(crate) async fn run(
    arguments: &ModelsArguments,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let gateway = GatewayClient::new(arguments.url.as_deref(), &arguments.gateway, config)?;
    let output = arguments.gateway.output();
    match &arguments.command {
        ModelsCommand::List => list(&gateway, output).await,
        ModelsCommand::Pull { models, servers } => {
            let mut errors = Vec::new();
            for model in models {
                errors.extend(
                    pull(&gateway, model, servers.as_deref(), output)
                        .await
                        .err(),
                );
            }
            ManageError::of_all(errors)
        }
        ModelsCommand::Rm { models, servers } => {
            let mut errors = Vec::new();
            for model in models {
                errors.extend(remove(&gateway, model, servers, output).await.err());
            }
            ManageError::of_all(errors)
        }
        ModelsCommand::Sync { dry_run, prune } => {
            let options = sync::Options {
                is_dry_run: *dry_run,
                prunes: *prune,
                output,
            };
            sync::sync(&gateway, options, config).await
        }
        ModelsCommand::Load { model } => load(&gateway, model, output).await,
        ModelsCommand::Unload { model } => unload(&gateway, model, output).await,
    }
}

const LIST: &str = "list the models";

async fn list(gateway: &GatewayClient, output: Output) -> Result<(), ManageError> {
    let text = match output {
        Output::Json => {
            let page = gateway.operate(Method::GET, "/status/models", LIST).await?;
            let page: Value = read(&page, LIST)?;
            format!("{page:#}\n")
        }
        Output::Text => models_page(gateway).await?.table(),
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// The models of all servers.
async fn models_page(gateway: &GatewayClient) -> Result<ModelsPage, ManageError> {
    let page = gateway.operate(Method::GET, "/status/models", LIST).await?;
    read(&page, LIST)
}

/// Reads a JSON page of the gateway.
pub(crate) fn read<T: DeserializeOwned>(page: &[u8], action: &str) -> Result<T, ManageError> {
    serde_json::from_slice(page).map_err(|error| ManageError::Failed {
        action: action.to_owned(),
        reason: format!("the response of the gateway is wrong: {error}"),
    })
}

/// Pulls a model, and shows the progress.
async fn pull(
    gateway: &GatewayClient,
    model: &str,
    servers: Option<&str>,
    output: Output,
) -> Result<(), ManageError> {
    let action = format!("pull {model}");
    let failed = |reason: String| ManageError::Failed {
        action: action.clone(),
        reason,
    };
    let body = json!({"model": model});
    let sent = gateway.send(Method::POST, "/api/pull", &body, servers, &action);
    let mut lines = sent.await?;
    let only_server = lines.server();
    let mut progress = Progress::new(model, output);
    let mut has_succeeded = false;
    while let Some(line) = lines.next().await? {
        let step: Step = serde_json::from_slice(&line)
            .map_err(|error| failed(format!("a line of the response is wrong: {error}")))?;
        // Without several servers no line names one.
        let server = step.server.as_ref().or(only_server.as_ref());
        has_succeeded = step.status == "success" && (step.server.is_none());
        let is_summary = server.is_none();
        if output == Output::Json || !is_summary {
            progress.show(server.map_or("", |server| server), &step, &line)?;
        }
        if let Some(error) = step.error {
            return Err(failed(error));
        }
    }
    match has_succeeded {
        true => Ok(()),
        false => Err(failed(
            "the response ended before the pull was complete".to_owned(),
        )),
    }
}

async fn remove(
    gateway: &GatewayClient,
    model: &str,
    servers: &str,
    output: Output,
) -> Result<(), ManageError> {
    let (action, body) = (format!("delete {model}"), json!({"model": model}));
    let servers = Some(servers);
    let sent = gateway.send(Method::DELETE, "/api/delete", &body, servers, &action);
    let response = sent.await?.whole().await?;
    if let Some(reason) = error_text(&response) {
        return Err(ManageError::Failed { action, reason });
    }
    tell(
        output,
        json!({"model": model, "status": "deleted"}),
        &format!("{model}: deleted"),
    )
}

/// Loads a model.
async fn load(gateway: &GatewayClient, model: &str, output: Output) -> Result<(), ManageError> {
    let response = run_without_prompt(gateway, json!({"model": model}), "load", model).await?;
    let text = match &response.server {
        Some(server) => format!("{model}: loaded on {server}"),
        None => format!("{model}: loaded"),
    };
    let page = json!({"model": model, "status": "loaded", "server": response.server});
    tell(output, page, &text)
}

/// Unloads a model on all servers that have it in memory.
async fn unload(gateway: &GatewayClient, model: &str, output: Output) -> Result<(), ManageError> {
    let body = json!({"model": model, "keep_alive": 0});
    let response = run_without_prompt(gateway, body, "unload", model).await?;
    let (status, text) = match response.servers.as_deref() {
        None => ("unloaded", format!("{model}: unloaded")),
        Some([]) => (
            "not in memory",
            format!("{model}: not in memory on any server"),
        ),
        Some(servers) => (
            "unloaded",
            format!("{model}: unloaded on {}", servers.join(", ")),
        ),
    };
    let servers = response.servers;
    let page = json!({"model": model, "status": status, "servers": servers});
    tell(output, page, &text)
}

/// What the response to a request without a prompt tells of servers.
struct Memory {
    /// The server that has answered.
    server: Option<String>,
    /// Those that have unloaded the model.
    servers: Option<Vec<String>>,
}

async fn run_without_prompt(
    gateway: &GatewayClient,
    body: Value,
    verb: &str,
    model: &str,
) -> Result<Memory, ManageError> {
    let action = format!("{verb} {model}");
    let sent = gateway.send(Method::POST, "/api/generate", &body, None, &action);
    let response = sent.await?;
    let (server, servers) = (response.server(), response.servers());
    let page = response.whole().await?;
    match error_text(&page) {
        Some(reason) => Err(ManageError::Failed { action, reason }),
        None => Ok(Memory { server, servers }),
    }
}

/// Prints the result of a command.
fn tell(output: Output, json: Value, text: &str) -> Result<(), ManageError> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{json}")?,
        Output::Text => writeln!(out, "{text}")?,
    }
    Ok(())
}
