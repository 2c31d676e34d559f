//! The oldest Rust that each published crate promises is new enough for everything it depends on, and its README
//! names it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;

use semver::Version;
use serde_json::Value;

/// What cargo knows about the packages of the workspace and their dependencies, with all features, for all systems.
struct Workspace {
    packages: HashMap<String, Value>,
    /// The identifiers of what each package needs when it is built for a user.
    needs: HashMap<String, Vec<String>>,
    members: Vec<String>,
}

impl Workspace {
    fn read() -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "metadata",
            "--locked",
            "--all-features",
            "--format-version=1",
        ]);
        let output = cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let packages = list(&metadata["packages"]).iter();
        let nodes = list(&metadata["resolve"]["nodes"]).iter();
        Self {
            packages: packages
                .map(|package| (text(&package["id"]), package.clone()))
                .collect(),
            needs: nodes.map(|node| (text(&node["id"]), needs(node))).collect(),
            members: list(&metadata["workspace_members"])
                .iter()
                .map(text)
                .collect(),
        }
    }

    /// The members that others use, which are the ones that cargo may publish.
    fn published(&self) -> impl Iterator<Item = &str> {
        let members = self.members.iter().map(String::as_str);
        members.filter(|id| self.packages[*id]["publish"].is_null())
    }

    /// This package and all that it depends on.
    fn closure<'a>(&'a self, id: &'a str) -> BTreeSet<&'a str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![id]);
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.needs[id].iter().map(String::as_str));
            }
        }
        seen
    }

    fn rust_version(&self, id: &str) -> Option<Version> {
        self.packages[id]["rust_version"].as_str().map(version)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Development dependencies are not built for users.
fn needs(node: &Value) -> Vec<String> {
    let for_users = |dependency: &&Value| {
        list(&dependency["dep_kinds"])
            .iter()
            .any(|kind| kind["kind"] != "dev")
    };
    let dependencies = list(&node["deps"]).iter().filter(for_users);
    dependencies
        .map(|dependency| text(&dependency["pkg"]))
        .collect()
}

/// `1.88` is 1.88.0.
fn version(text: &str) -> Version {
    let missing = 2 - text.matches('.').count();
    Version::parse(&format!("{text}{}", ".0".repeat(missing))).unwrap()
}

#[test]
fn the_oldest_rust_of_a_published_crate_is_new_enough_for_its_dependencies() {
    let workspace = Workspace::read();
    for id in workspace.published() {
        let promised = workspace.rust_version(id).expect("it promises a Rust");
        let too_new: Vec<_> = workspace
            .closure(id)
            .into_iter()
            .filter(|dependency| workspace.rust_version(dependency) > Some(promised.clone()))
            .collect();
        assert!(
            too_new.is_empty(),
            "{id} promises Rust {promised}, but these need a newer one: {too_new:#?}"
        );
    }
}

#[test]
fn the_readme_of_a_published_crate_names_its_oldest_rust() {
    let workspace = Workspace::read();
    for id in workspace.published() {
        let package = &workspace.packages[id];
        let folder = Path::new(package["manifest_path"].as_str().unwrap())
            .parent()
            .unwrap();
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let promise = format!(
            "Rust {} or newer",
            package["rust_version"].as_str().unwrap()
        );
        assert!(
            readme.contains(&promise),
            "{} does not say: {promise}",
            folder.display()
        );
    }
}
