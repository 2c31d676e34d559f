//! `llamatower models sync`: installs the models that the file declares.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::arguments::Output;
use super::error::ManageError;
use super::gateway::GatewayClient;
use super::list::ModelsPage;
use super::{models_page, pull, remove};
use crate::model_sync::Difference;
use crate::settings::DeclaredModels;

/// What to do about differences.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Only report them.
    pub(super) is_dry_run: bool,
    /// Also delete models that are not declared.
    pub(super) prunes: bool,
    pub(super) output: Output,
}

/// The differences between what is declared and what is installed: for each model, the servers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Drift {
    missing: BTreeMap<String, Vec<String>>,
    undeclared: BTreeMap<String, Vec<String>>,
}

/// Pulls the declared models that are missing.
///
/// # Errors
/// The declaration cannot be used, or a command failed on a server. In a dry run a missing model is
/// an error too, and with pruning an undeclared one.
pub(super) async fn sync(
    gateway: &GatewayClient,
    options: Options,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let declared = declared(config)?;
    let page = models_page(gateway).await?;
    let mut drift = Drift::between(&declared, &page)?;
    if !options.prunes {
        drift.undeclared.clear();
    }
    if options.is_dry_run {
        return drift.report(options.output);
    }
    let mut errors = Vec::new();
    for (model, servers) in &drift.missing {
        let servers = servers.join(",");
        let pulled = pull(gateway, model, Some(&servers), options.output).await;
        errors.extend(pulled.err());
    }
    for (model, servers) in &drift.undeclared {
        let servers = servers.join(",");
        errors.extend(remove(gateway, model, &servers, options.output).await.err());
    }
    ManageError::of_all(errors)
}

fn declared(config: Option<&Path>) -> Result<DeclaredModels, ManageError> {
    let file = config.ok_or_else(|| {
        ManageError::Arguments(
            "give the file with the table [models] with --config or LLAMATOWER_CONFIG".to_owned(),
        )
    })?;
    let declared = DeclaredModels::load(file);
    let declared = declared.map_err(|error| ManageError::Arguments(error.to_string()))?;
    match declared.is_empty() {
        true => Err(ManageError::Arguments(format!(
            "{} has no table [models]",
            file.display()
        ))),
        false => Ok(declared),
    }
}

impl Drift {
    fn between(declared: &DeclaredModels, page: &ModelsPage) -> Result<Self, ManageError> {
        let servers: Vec<_> = page
            .servers
            .iter()
            .filter(|server| server.is_ollama)
            .collect();
        let named = |name: &str| servers.iter().any(|server| server.is_called(name));
        if let Some(unknown) = declared.by_server.keys().find(|name| !named(name)) {
            let known: Vec<_> = servers.iter().map(|server| &*server.name).collect();
            return Err(ManageError::Arguments(format!(
                "[models] names the server {unknown:?}; the gateway's servers are {}",
                known.join(", ")
            )));
        }
        let mut drift = Self::default();
        for server in servers {
            let installed = page.installed_on(&server.name);
            let is_called = |name: &str| server.is_called(name);
            let found = Difference::of(declared, is_called, &installed);
            for (rows, models) in [
                (&mut drift.missing, found.missing),
                (&mut drift.undeclared, found.undeclared),
            ] {
                for model in models {
                    let servers = rows.entry(model.to_string()).or_default();
                    servers.push(server.name.clone());
                }
            }
        }
        Ok(drift)
    }

    /// Prints the differences.
    fn report(&self, output: Output) -> Result<(), ManageError> {
        let mut out = io::stdout().lock();
        match output {
            Output::Json => {
                let page = json!({"missing": self.missing, "undeclared": self.undeclared});
                writeln!(out, "{page}")?;
            }
            Output::Text => {
                for (what, rows) in [
                    ("missing", &self.missing),
                    ("not declared", &self.undeclared),
                ] {
                    for (model, servers) in rows {
                        writeln!(out, "{model}: {what} on {}", servers.join(", "))?;
                    }
                }
            }
        }
        match *self == Self::default() {
            true => Ok(()),
            false => Err(ManageError::Failed {
                action: "sync".to_owned(),
                reason: "the installed models differ from the declared ones".to_owned(),
            }),
        }
    }
}
