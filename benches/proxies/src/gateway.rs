//! The gateway of this workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Builds the gateway of this workspace with the optimisations of a release, and returns its program.
///
/// # Errors
/// It could not be built.
pub fn build_gateway() -> Result<PathBuf, Error> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--bin", "llamatower"])
        .current_dir(workspace())
        .status()?;
    if !status.success() {
        return Err("the gateway could not be built; use --gateway to give a binary".into());
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(workspace().join(target).join("release/llamatower"))
}
