//! The example files that the program prints.

use std::io::Write;
use std::num::NonZeroUsize;

use clap::Parser;
use llamatower::commands::arguments::Arguments;
use llamatower::ollama::fleet::SlotRule;
use llamatower::ollama::upstream::Address;
use llamatower::settings::DeclaredModels;

use super::*;

/// The lines with settings, without the # before them.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic()) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn values(loaded: &Loaded) -> Vec<(&str, &str)> {
    let rows = loaded.effective.iter();
    rows.map(|row| (row.setting.key, &*row.value)).collect()
}

#[test]
fn the_example_file_with_all_lines_uncommented_loads_to_the_defaults() {
    let text = uncommented(&example_file());
    let loaded = load_file(&text, &[]).unwrap_or_else(|error| panic!("{error}"));
    let defaults = load(&[]).expect("sound");
    assert_eq!(values(&loaded), values(&defaults));
    assert_eq!(
        format!("{:?}", loaded.settings),
        format!("{:?}", defaults.settings)
    );
    let table: toml::Table = text.parse().expect("valid TOML");
    for setting in SETTINGS {
        let (section, name) = setting.key.split_once('.').expect("keys have sections");
        let is_there = table[section].get(name).is_some();
        assert_eq!(is_there, !setting.form.is_secret(), "{}", setting.key);
    }
}

#[test]
fn the_example_file_has_numbers_booleans_and_lists_of_toml() {
    let text = example_file();
    for line in [
        "#max_connections = 4096",
        "#ratio = 0.5",
        "#budget_floor = 10",
        "#failures = 5",
        "#required = false",
        "#trust_trace = true",
        "#public = [\"127.0.0.1:3000\"]",
        "#urls = [\"http://localhost:11434\"]",
        "#origins = \"\"",
        "#slots = [\"learn\"]",
        "#worker_threads = \"auto\"",
        "#max_waiting_per_key = \"off\"",
        "#idle = \"900s\"",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}");
    }
}

#[test]
fn the_example_of_a_table_for_a_server_loads_from_the_file_and_from_the_guide() {
    let file = example_file();
    let (_, table) = file.split_once("# [[backends.servers]]").expect("a table");
    let lines = table.lines().map_while(|line| match line.is_empty() {
        true => Some(""),
        false => line.strip_prefix("# "),
    });
    let table = format!(
        "[[backends.servers]]\n{}",
        lines.collect::<Vec<_>>().join("\n")
    );
    let guide = reference();
    let (_, block) = guide.split_once("```toml").expect("an example");
    let (block, _) = block.split_once("```").expect("its end");
    for (text, servers) in [(&*table, 1), (block, 2)] {
        let loaded = load_file(text, &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let rules = loaded.settings.backends.rules_of_each();
        assert_eq!(
            (rules.len(), rules[0].weight, rules[0].labels.len()),
            (servers, 2.0, 2)
        );
    }
}

#[test]
fn the_examples_of_openai_compatible_servers_in_the_guide_load() {
    let guide = include_str!("../../docs/models.md");
    let (_, section) = guide
        .split_once("## OpenAI-compatible servers")
        .expect("a section");
    let (_, block) = section.split_once("```toml").expect("an example");
    let (block, _) = block.split_once("```").expect("its end");
    let loaded = load_file(block, &[]).unwrap_or_else(|error| panic!("{error}"));
    let urls = &loaded.settings.backends.urls;
    let kinds: Vec<_> = urls.iter().map(Address::is_openai).collect();
    assert_eq!(kinds, [false, true]);
    let slots = loaded.settings.backends.slots_of_each();
    assert_eq!(slots[1], SlotRule::Count(NonZeroUsize::new(8).expect("8")));
    let example = section.lines().find(|line| line.contains("OLLAMA_URL="));
    let example = example.expect("an example").trim().trim_end_matches(" \\");
    let (variable, value) = example.split_once('=').expect("an assignment");
    let tokens = ("LLAMATOWER_BACKEND_TOKENS", "llm.example=TOKEN");
    let loaded = load(&[(variable, value), tokens]).unwrap_or_else(|error| panic!("{error}"));
    let urls = &loaded.settings.backends.urls;
    assert_eq!(urls.iter().filter(|url| url.is_openai()).count(), 2);
}

#[test]
fn the_examples_of_models_over_the_fleet_in_the_guide_can_be_used() {
    let guide = include_str!("../../docs/models.md");
    let (_, section) = guide
        .split_once("## Models over the fleet")
        .expect("a section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let (_, block) = section.split_once("```toml").expect("an example");
    let (block, _) = block.split_once("```").expect("its end");
    load_file(block, &[]).unwrap_or_else(|error| panic!("{error}"));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(block.as_bytes()).expect("written");
    let declared = DeclaredModels::load(file.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(declared.all.len(), 1);
    assert_eq!(declared.by_server["gpu-1:11434"].len(), 1);
    let commands = section
        .lines()
        .filter(|line| line.starts_with("    llamatower "));
    let parsed = commands.map(|line| Arguments::try_parse_from(line.split_whitespace()));
    let parsed: Result<Vec<_>, _> = parsed.collect();
    assert_eq!(parsed.unwrap_or_else(|error| panic!("{error}")).len(), 6);
}

#[test]
fn the_example_environment_with_all_lines_uncommented_loads_to_the_defaults() {
    let text = uncommented(&example_environment());
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let variables: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
    let loaded = load(&variables).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(values(&loaded), values(&load(&[]).expect("sound")));
}

#[test]
fn the_header_of_the_example_environment_names_each_secret_and_its_file() {
    let text = example_environment();
    let (header, _) = text.split_once("\n\n").expect("a header");
    for secret in SETTINGS.iter().filter(|setting| setting.form.is_secret()) {
        let variable = secret.variable;
        assert!(
            header.contains(&format!("{variable} or {variable}_FILE")),
            "{header}"
        );
        assert!(!text.contains(&format!("\n{variable}=")), "{text}");
        assert!(!text.contains(&format!("\n#{variable}=")), "{text}");
    }
    assert!(header.lines().all(|line| line.starts_with('#')), "{header}");
}
