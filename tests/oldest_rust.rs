//! The oldest Rust that each published crate promises is new enough for everything it depends on, and its README
//! names it.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use semver::Version;
use serde_json::Value;

/// What cargo prints.
fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).args(["--locked", "--all-features"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = output.output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    String::from_utf8(output.stdout).unwrap()
}

/// All packages in the tree of the workspace, also those of other systems.
fn packages() -> Vec<Value> {
    let metadata = cargo(&["metadata", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap()
}

/// The members of the workspace that cargo may publish.
fn published(packages: &[Value]) -> Vec<&Value> {
    let is_ours = |package: &&Value| package["source"].is_null() && package["publish"].is_null();
    packages.iter().filter(is_ours).collect()
}

/// What a package needs when it is built for a user: `NAME VERSION`. Not the graph of the workspace, in which the
/// features of all members are on.
fn needs(package: &Value) -> Vec<String> {
    let tree = cargo(&[
        "tree",
        "--package",
        text(package, "name"),
        "--edges=normal,build",
        "--target=all",
        "--prefix=none",
        "--format={p}",
    ]);
    let lines = tree.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, version) = (words.next()?, words.next()?);
        Some(format!("{name} {}", version.strip_prefix('v')?))
    });
    lines.collect()
}

/// `1.88` is 1.88.0.
fn rust_version(package: &Value) -> Option<Version> {
    let text = package["rust_version"].as_str()?;
    let missing = 2 - text.matches('.').count();
    Some(Version::parse(&format!("{text}{}", ".0".repeat(missing))).unwrap())
}

#[test]
fn the_oldest_rust_of_a_published_crate_is_new_enough_for_its_dependencies() {
    let packages = packages();
    for package in published(&packages) {
        let promised = rust_version(package).expect("it promises a Rust");
        let needed = needs(package);
        assert!(needed.len() > 5, "{needed:?}");
        let is_needed = |other: &&Value| {
            let id = format!("{} {}", text(other, "name"), text(other, "version"));
            needed.contains(&id)
        };
        let newer = packages.iter().filter(is_needed);
        let newer = newer.filter(|other| rust_version(other) > Some(promised.clone()));
        let newer: Vec<_> = newer.map(|other| text(other, "name")).collect();
        let name = text(package, "name");
        assert!(
            newer.is_empty(),
            "{name} promises Rust {promised}, but these need a newer one: {newer:?}"
        );
    }
}

#[test]
fn the_readme_of_a_published_crate_names_its_oldest_rust() {
    for package in published(&packages()) {
        let folder = Path::new(text(package, "manifest_path")).parent();
        let folder = folder.unwrap();
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let promise = format!("Rust {} or newer", text(package, "rust_version"));
        assert!(
            readme.contains(&promise),
            "{} does not say: {promise}",
            folder.display()
        );
    }
}
