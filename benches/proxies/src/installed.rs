//! Finds the installed proxies and their versions.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The path of a program, also in Debian's directories for servers.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The version that a program prints when it is asked for it; `unknown` if it prints none.
pub fn version_of(question: &mut Command) -> String {
    let printed = question
        .output()
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    let version = version_in(&String::from_utf8_lossy(&printed)).map(str::to_owned);
    version.unwrap_or_else(|| "unknown".to_owned())
}

/// The first word with a digit and a dot.
fn version_in(text: &str) -> Option<&str> {
    let mut words = text
        .split_whitespace()
        .flat_map(|word| word.rsplit('/').next());
    words.find(|word| {
        let word = word.trim_start_matches('v');
        word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_programs_print() {
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        for (text, version) in [
            ("nginx version: nginx/1.22.1\n", Some("1.22.1")),
            (haproxy, Some("2.6.12-1+deb12u4")),
            ("v20.20.2", Some("v20.20.2")),
            ("", None),
        ] {
            assert_eq!(version_in(text), version, "{text}");
        }
    }

    #[test]
    fn the_version_of_a_missing_program_is_unknown() {
        let mut question = Command::new("/no/such/program");
        assert_eq!(version_of(question.arg("-v")), "unknown");
    }
}
