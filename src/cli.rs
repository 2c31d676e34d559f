//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An LLM gateway in front of Ollama.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Settings come from the environment and an optional TOML file; `llamatower check` shows them.\n\n\
                  Exit codes: 0 done; 1 a failure while running; 2 a setting is wrong; 3 an address cannot be listened on."
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
    /// Print every setting with its value and where that came from.
    Check,
    /// Ask a running gateway whether it serves; for containers without a shell.
    Healthcheck {
        /// What to ask.
        #[arg(default_value = "http://127.0.0.1:3000/health")]
        url: String,
    },
    /// Wait, and do nothing else; for the `preStop` of a container without a shell.
    Sleep {
        /// How many seconds.
        seconds: u64,
    },
    /// Make a key for clients, and the line to configure it by.
    Keygen {
        /// Whose key it is, as it appears in logs.
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
