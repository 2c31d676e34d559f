//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, value_parser};
use clap_complete::Shell;

use crate::commands::connect::ConnectArguments;
use crate::commands::keygen::KeygenArguments;
use crate::commands::manage::{
    ModelsArguments, OperatorArguments, ServerArguments, UsageArguments,
};
use crate::commands::top::TopArguments;
use crate::settings::CONFIG_FILE;

/// An LLM gateway in front of Ollama.
#[derive(Debug, Parser)]
#[command(
    version = crate::version::ALL,
    after_help = "Settings come from the environment and an optional TOML file; `llamatower check` shows them.\n\n\
                  Exit codes: 0 success; 1 a failure while running or on a server, or doctor found an error; 2 a setting is wrong; 3 listening on an address failed; 4 `check --diff` found a change that needs a restart."
)]
pub struct Arguments {
    /// A TOML file with settings, by default the file in LLAMATOWER_CONFIG; environment variables
    /// override it.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The command; `serve` if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Arguments {
    /// The TOML file of the option or of `LLAMATOWER_CONFIG`. A blank variable counts as not set;
    /// an option without a value is an error of the command line.
    pub fn config_file(&self) -> Option<PathBuf> {
        let of_environment = || {
            let path = std::env::var_os(CONFIG_FILE)?;
            let is_blank = path.to_string_lossy().trim().is_empty();
            (!is_blank).then(|| path.into())
        };
        self.config.clone().or_else(of_environment)
    }
}

/// The command.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM or SIGINT.
    Serve,
    /// Serve in front of three simulated Ollama servers, and print commands to try.
    Demo,
    /// Print every setting with its value and its source, and all errors and warnings.
    Check(CheckArguments),
    /// Query the servers, and print which settings to change, here or on a server.
    Doctor {
        /// Print JSON, for scripts.
        #[arg(long)]
        json: bool,
        /// Load this model on each server that has it, and compare the load times.
        #[arg(long, value_name = "MODEL")]
        load: Option<String>,
    },
    /// Check whether a running gateway serves; for containers without a shell.
    Healthcheck {
        /// The address, as http://HOST:PORT/PATH or unix:PATH; by default the first address of
        /// LLAMATOWER_LISTEN.
        url: Option<String>,
    },
    /// Wait, for the `preStop` hook of a container without a shell.
    Sleep {
        /// The number of seconds.
        seconds: u64,
    },
    /// Generate a client's key, and the line or the entry of the keys file that configures it.
    Keygen(KeygenArguments),
    /// Listen on this machine like an Ollama, and pass requests on to a gateway with a key: for Ollama's
    /// command line, and for editors that cannot send one.
    Connect(ConnectArguments),
    /// Manage the models of all servers through a running gateway.
    Models(ModelsArguments),
    /// Show a running gateway in the terminal: servers, queue, requests, models and clients.
    Top(TopArguments),
    /// Take a server out of the choice of a running gateway: no new request is routed there.
    Cordon(ServerArguments),
    /// Take a server back into the choice.
    Uncordon(ServerArguments),
    /// Cordon a server, and wait until no request is in flight there.
    Drain(ServerArguments),
    /// Show what keys have used of a running gateway, by day, key and model.
    Usage(UsageArguments),
    /// Simulate the routing of requests on virtual time, and compare it with simple policies.
    Simulate(SimulateArguments),
    /// Print the reference of all settings.
    Reference {
        /// Print an example TOML file instead.
        #[arg(long, conflicts_with = "environment")]
        example: bool,
        /// Print an example file of environment variables instead.
        #[arg(long)]
        environment: bool,
    },
    /// Print the completions of the commands for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands to a directory.
    Man {
        /// The directory.
        directory: Option<PathBuf>,
    },
}

/// What to check.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CheckArguments {
    /// Print what a reload would change in a running gateway, in place of all settings. Exit code 4 if
    /// something needs a restart.
    #[arg(long)]
    pub diff: bool,
    /// How to reach that gateway.
    #[command(flatten)]
    pub gateway: OperatorArguments,
}

/// What to simulate.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct SimulateArguments {
    /// Only this scenario; can be given more than once.
    #[arg(long, value_name = "NAME")]
    pub scenario: Vec<String>,
    /// Only this policy; can be given more than once.
    #[arg(long, value_name = "NAME")]
    pub policy: Vec<String>,
    /// The requests of this trace: a CSV file of Azure's LLM inference dataset or a JSON lines file
    /// of Mooncake; by default random ones.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The number of requests; by default all of the trace, or 5000 random ones.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub requests: Option<u32>,
    /// The seed of all random values. The same seed gives the same output.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The number of servers: those of a scenario again and again.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    pub servers: Option<u32>,
    /// Write a plot of each scenario as an SVG file to this directory.
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub json: bool,
    /// Print the names of the scenarios and policies.
    #[arg(long)]
    pub list: bool,
}

/// The exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Done,
    /// A failure while running.
    Failed,
    /// A setting is wrong.
    WrongSetting,
    /// Listening on an address failed.
    CannotListen,
    /// A change of the settings needs a restart.
    NeedsRestart,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::WrongSetting => 2,
            Exit::CannotListen => 3,
            Exit::NeedsRestart => 4,
        })
    }
}
