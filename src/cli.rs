//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An LLM gateway in front of Ollama.
#[derive(Debug, Parser)]
#[command(
    version = crate::version::ALL,
    after_help = "Settings come from the environment and an optional TOML file; `llamatower check` shows them.\n\n\
                  Exit codes: 0 done; 1 a failure while running, or doctor has found an error; 2 a setting is wrong; 3 an address cannot be listened on."
)]
pub struct Arguments {
    /// A TOML file with settings; the environment wins over it.
    #[arg(long, global = true, env = "LLAMATOWER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do; to serve if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM or SIGINT.
    Serve,
    /// Serve in front of three simulated Ollamas and say what to try.
    Demo,
    /// Print every setting with its value and where that came from, and what is wrong with it.
    Check {
        /// Print JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Ask the servers, and say which setting of which side to change.
    Doctor {
        /// Print JSON, for scripts.
        #[arg(long)]
        json: bool,
        /// Load this model on each server that has it, and compare how long that takes.
        #[arg(long, value_name = "MODEL")]
        load: Option<String>,
    },
    /// Ask a running gateway whether it serves; for containers without a shell.
    Healthcheck {
        /// What to ask, as http://HOST:PORT/PATH or unix:PATH; the first address of
        /// LLAMATOWER_LISTEN if nothing is said.
        url: Option<String>,
    },
    /// Wait, and do nothing else; for the `preStop` of a container without a shell.
    Sleep {
        /// How many seconds.
        seconds: u64,
    },
    /// Make a key for clients, and the line to configure it by.
    Keygen {
        /// Whose key it is, as it appears in logs: letters, digits and - _ . @
        #[arg(default_value = "client")]
        name: String,
    },
    /// Print the reference of all settings.
    Reference {
        /// Print an example TOML file instead.
        #[arg(long, conflicts_with = "environment")]
        example: bool,
        /// Print an example file of environment variables instead.
        #[arg(long)]
        environment: bool,
    },
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// A failure while running.
    Failed,
    /// A setting is wrong.
    WrongSetting,
    /// An address cannot be listened on.
    CannotListen,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::WrongSetting => 2,
            Exit::CannotListen => 3,
        })
    }
}
