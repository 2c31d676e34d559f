//! Arguments, settings, run.

use std::process::ExitCode;

use clap::Parser;
use llamatower::cli::Arguments;

fn main() -> ExitCode {
    llamatower::run::run(Arguments::parse()).into()
}
