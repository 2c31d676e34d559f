//! Tells the program what it is built from: `LLAMATOWER_COMMIT` and `LLAMATOWER_BUILD`, for
//! `src/version.rs`.
//!
//! The commit comes from the variable `LLAMATOWER_COMMIT` (an image is built without the repository)
//! or from git; without either it is `unknown`. No time is written down, so that a build can be
//! repeated byte for byte.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LLAMATOWER_COMMIT");
    let given = std::env::var("LLAMATOWER_COMMIT").ok();
    let given = given.filter(|commit| is_sound(commit));
    let commit = given.or_else(commit_of_repository);
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    let of_cargo = |name| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=LLAMATOWER_COMMIT={commit}");
    println!(
        "cargo::rustc-env=LLAMATOWER_BUILD={} {}",
        of_cargo("PROFILE"),
        of_cargo("TARGET")
    );
}

/// What may stand in one line of the output.
fn is_sound(commit: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !commit.is_empty() && commit.bytes().all(is_plain)
}

/// The commit that is checked out, if this is a clone and git is installed.
fn commit_of_repository() -> Option<String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    // The source may lie within a repository that is another project's.
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // These change with what is checked out. A path that does not exist would have this run each time.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).filter(|commit| is_sound(commit))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
