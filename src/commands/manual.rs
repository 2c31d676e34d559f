//! The manual pages and the shell completions, made from the command line's own description.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::commands::arguments::Arguments;
use crate::version;

/// The name that completions complete.
const PROGRAM: &str = "llamatower";

/// The script that completes the commands and options in a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut description(), PROGRAM, &mut script);
    script
}

/// The page `llamatower(1)`, in roff.
///
/// # Errors
///
/// None in practice: the page is written to memory.
pub fn page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    // `llamatower help` prints pages and has none.
    Man::new(description().disable_help_subcommand(true)).render(&mut page)?;
    Ok(page)
}

/// Writes the page of each command to a directory, which is created: `llamatower.1`,
/// `llamatower-check.1` and so on.
///
/// # Errors
///
/// If the directory cannot be created or a file cannot be written.
pub fn write_pages(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(description(), directory)
}

/// The build is not part of the pages, so that the pages of all architectures are the same.
fn description() -> clap::Command {
    Arguments::command().version(version::VERSION)
}
