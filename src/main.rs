//! Arguments, settings, run.

use std::process::ExitCode;

use clap::Parser;
use llamatower::commands::arguments::Arguments;

fn main() -> ExitCode {
    llamatower::commands::run::run(Arguments::parse()).into()
}
