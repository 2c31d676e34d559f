//! What the compiler says about a wrong program: each file in `diagnostics/` fails to compile with
//! the messages that its lines `//~` name.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The libraries that a program may use, by name: this crate and its dependencies, as cargo built
/// them for the examples.
fn libraries() -> BTreeMap<String, PathBuf> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--all-features", "--examples"])
        .arg("--message-format=json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(built.status.success());
    let messages = String::from_utf8(built.stdout).unwrap();
    let mut libraries = BTreeMap::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let files = message["filenames"].as_array().into_iter().flatten();
        let files = files.filter_map(|file| file.as_str());
        if let Some(file) = files.into_iter().find(|file| file.ends_with(".rlib")) {
            let name = message["target"]["name"].as_str().unwrap();
            libraries.insert(name.replace('-', "_"), PathBuf::from(file));
        }
    }
    libraries
}

fn compile(program: &Path, libraries: &BTreeMap<String, PathBuf>) -> (bool, String) {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "lib",
            "--emit",
            "metadata",
        ])
        .arg("-o")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("diagnostics"))
        .arg(program);
    for name in ["axum", "http", "llamatower_layers", "tower"] {
        let file = &libraries[name];
        rustc
            .arg("--extern")
            .arg(format!("{name}={}", file.display()));
        let folder = file.parent().unwrap();
        rustc
            .arg("-L")
            .arg(format!("dependency={}", folder.join("deps").display()));
        rustc
            .arg("-L")
            .arg(format!("dependency={}", folder.display()));
    }
    let output = rustc.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), text)
}

#[test]
fn the_compiler_says_what_to_do_about_a_wrong_type() {
    let libraries = libraries();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    for program in folder.read_dir().unwrap() {
        let program = program.unwrap().path();
        let (compiled, text) = compile(&program, &libraries);
        assert!(!compiled, "{} compiles", program.display());
        let source = std::fs::read_to_string(&program).unwrap();
        for expected in source.lines().filter_map(|line| line.strip_prefix("//~ ")) {
            assert!(text.contains(expected), "no {expected:?} in:\n{text}");
        }
    }
}
