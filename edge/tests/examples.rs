//! Starts and calls each example, as a reader would.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

/// The path of an example: `examples/` beside the `deps/` directory of this test. `cargo test` with
/// a test selection does not build examples, so this builds them.
fn program(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(|deps| deps.parent()).unwrap();
    BUILT.call_once(|| {
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--all-features", "--examples"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.unwrap().success());
    });
    folder.join("examples").join(name)
}

/// Everything that a client of the example receives.
async fn received(example: &str) -> String {
    let mut child = Command::new(program(example))
        .arg("0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = timeout(Duration::from_secs(30), lines.next_line()).await;
    let url = url.unwrap().unwrap().unwrap();
    let address = url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let end = timeout(Duration::from_secs(30), client.read_to_string(&mut text));
    end.await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn the_hyper_server_sends_each_line_before_its_error() {
    let text = received("hyper_server").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in 1..=3 {
        assert!(text.contains(&format!("{{\"line\":{line}}}\n")), "{text}");
    }
    assert!(!text.contains("\r\n0\r\n"), "it is not complete: {text}");
}

#[tokio::test]
async fn axum_serve_sends_each_line_before_its_error_and_knows_the_client() {
    let text = received("axum_serve").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("{\"client\":\"127.0.0.1:"), "{text}");
    assert!(text.contains("{\"line\":2}\n"), "{text}");
    assert!(!text.contains("\r\n0\r\n"), "it is not complete: {text}");
}

#[test]
fn the_readme_has_a_command_for_each_example_of_less_than_60_lines() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let commands = readme.lines().filter_map(|line| {
        let command = line.trim_start().strip_prefix("cargo run ")?;
        let (_, name) = command.split_once("--example ")?;
        name.split_whitespace().next().map(str::to_owned)
    });
    let files = folder.join("examples").read_dir().unwrap();
    let files = files.map(|file| {
        let path = file.unwrap().path();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 60, "{} has {lines} lines", path.display());
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    });
    let (commands, files): (BTreeSet<_>, BTreeSet<_>) = (commands.collect(), files.collect());
    assert_eq!(commands, files);
}
