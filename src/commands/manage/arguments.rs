//! The arguments of `llamatower models`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// How to reach the gateway's address for operators.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct OperatorArguments {
    /// The gateway's address for operators; by default the first of LLAMATOWER_ADMIN_LISTEN, on this
    /// machine.
    #[arg(long, global = true, value_name = "URL")]
    pub admin_url: Option<String>,
    /// A file with an administrator's key; by default the key is in LLAMATOWER_ADMIN_KEY.
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A PEM file with a client's certificate and its key, if the gateway requires one.
    #[arg(long, global = true, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,
    /// Print JSON, for scripts.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The form in which a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

impl OperatorArguments {
    pub(super) fn output(&self) -> Output {
        match self.json {
            true => Output::Json,
            false => Output::Text,
        }
    }
}

/// A server, and how to reach the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ServerArguments {
    /// The server's name, as on /status.
    pub name: String,
    /// How to reach the gateway.
    #[command(flatten)]
    pub gateway: OperatorArguments,
}

/// What to do with the models of all servers.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ModelsArguments {
    /// The gateway's address for clients; by default the first of LLAMATOWER_LISTEN, on this
    /// machine.
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// How to reach the gateway's address for operators.
    #[command(flatten)]
    pub gateway: OperatorArguments,
    /// The command.
    #[command(subcommand)]
    pub command: ModelsCommand,
}

/// A command for models.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ModelsCommand {
    /// List the models, and the servers that have them on disk and in memory.
    List,
    /// Pull models.
    Pull {
        /// The models.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
        /// `all`, a number of servers, or their names with commas between; by default the server of
        /// LLAMATOWER_MANAGEMENT_BACKEND.
        #[arg(long, value_name = "all|N|NAME,..")]
        servers: Option<String>,
    },
    /// Delete models.
    Rm {
        /// The models.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
        /// `all` for each server that has the model, or names with commas between.
        #[arg(long, value_name = "all|NAME,..", default_value = "all")]
        servers: String,
    },
    /// Pull the models that the table `[models]` of the file (--config) declares and servers lack.
    Sync {
        /// Only print what is missing; exit with 1 if anything is.
        #[arg(long)]
        dry_run: bool,
        /// Also delete the models that are not declared.
        #[arg(long)]
        prune: bool,
    },
    /// Load a model on the server that the gateway chooses.
    Load {
        /// The model.
        model: String,
    },
    /// Unload a model on all servers that have it in memory.
    Unload {
        /// The model.
        model: String,
    },
}
