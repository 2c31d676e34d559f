//! Arguments, settings, run.

use std::process::ExitCode;

use clap::Parser;
use llamatower::cli::Arguments;

/// That of musl is slow, so static programs have another one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    llamatower::run::run(Arguments::parse()).into()
}
