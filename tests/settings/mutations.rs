//! Random values and files: no panic, and an error names what it is about.

use proptest::prelude::*;

use super::*;

/// Pieces of valid and invalid values.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "127.0.0.1:4000", "[::1]:0", "unix:/a", "http://a:1", "https://user@a/b", "openai+http://a", "off", "auto", "learn", "a=1",
    "a:1=2", "ada=sha256:", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "10s", "1h30m", "500ms", "128MiB",
    "25%", "101%", "-1", "0", "1e99", "18446744073709551616", "60/m", "1/day", "20000/minute", "*", "a*|b", "cheapest(", ")", ",",
    "=", "|", " ", "\t", "\"", "'", "[", "]", "{", "}", "\\", "\n", "é", "\u{0}", "\u{202e}", "true", "POST /api/x", "10.0.0.0/8",
    "Europe/Zurich", "{trace_id}", "debug", "hyper=trace",
];

fn values() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_error_about_any_value_names_its_variable(value in values()) {
        for setting in SETTINGS {
            let environment = [(setting.variable, &*value)];
            if let Err(error) = load(&environment) {
                let text = error.to_string();
                prop_assert!(text.contains(setting.variable), "{}={value:?}: {text}", setting.variable);
            }
        }
    }

    #[test]
    fn a_file_of_any_text_is_read_or_refused(
        lines in prop::collection::vec(
            (prop::sample::select(SETTINGS), values(), prop::option::of(any::<prop::sample::Index>())),
            0..8,
        ),
    ) {
        let mut text = String::new();
        for (setting, value, cut) in lines {
            let (table, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
            let line = format!("[{table}]\n{key} = {value}\n");
            let end = cut.map_or(line.len(), |cut| cut.index(line.len()));
            let end = (0..=end).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            text += &line[..end];
        }
        if let Err(error) = load_file(&text, &[]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
