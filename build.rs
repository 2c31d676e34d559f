//! Sets `BUILD_COMMIT` and `BUILD_TARGET` for `src/version.rs`. `cargo run` passes them on to the program,
//! which refuses unknown variables that begin like its settings, so they begin otherwise.
//!
//! The commit comes from the variable `LLAMATOWER_COMMIT` (images are built without the repository)
//! or from git; otherwise it is `unknown`. The build time is not included, so that builds are
//! reproducible.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LLAMATOWER_COMMIT");
    let given = std::env::var("LLAMATOWER_COMMIT").ok();
    let given = given.filter(|commit| is_valid(commit));
    let commit = given.or_else(commit_of_repository);
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    let of_cargo = |name| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!(
        "cargo::rustc-env=BUILD_TARGET={} {}",
        of_cargo("PROFILE"),
        of_cargo("TARGET")
    );
}

/// Whether the text fits on one line of the build script's output.
fn is_valid(commit: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !commit.is_empty() && commit.bytes().all(is_plain)
}

/// The checked-out commit, if this is a git clone and git is installed.
fn commit_of_repository() -> Option<String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    // The source may be inside another project's repository.
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // These files change with the checked-out commit. A path that does not exist would run this
    // script in every build.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| is_valid(commit))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
