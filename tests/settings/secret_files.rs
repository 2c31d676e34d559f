//! Secrets in files that a variable or the TOML file names.

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("it can be written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("a plain path")
}

/// Each secret: its section, its key, its variable and a text.
const SECRETS: [(&str, &str, &str, &str); 4] = [
    ("keys", "api", "LLAMATOWER_API_KEYS", DIGEST),
    ("keys", "admin", "LLAMATOWER_ADMIN_KEYS", DIGEST),
    ("keys", "groq", "GROQ_API_KEY", "hunter2"),
    (
        "backends",
        "tokens",
        "LLAMATOWER_BACKEND_TOKENS",
        "localhost=hunter2",
    ),
];

fn named(section: &str, key: &str, path: &str) -> String {
    format!("[{section}]\n{key}_file = {path:?}\n")
}

#[test]
fn the_toml_file_can_name_the_file_of_each_secret() {
    for (section, key, variable, text) in SECRETS {
        let secret = file(text);
        let toml = named(section, key, path(&secret));
        let loaded = load_file(&toml, &[]).unwrap_or_else(|error| panic!("{error}"));
        let mut rows = loaded.effective.iter();
        let row = rows.find(|row| row.setting.variable == variable);
        let source = &row.expect("a row").source;
        let begin = format!("{section}.{key}_file={} in ", path(&secret));
        assert!(source.starts_with(&begin), "{source}");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
    let keys = file(DIGEST);
    let loaded = load_file(&named("keys", "api", path(&keys)), &[]).expect("sound");
    assert_eq!(loaded.settings.keys.api[0].expose(), DIGEST);
}

#[test]
fn a_file_that_the_toml_file_names_must_hold_a_secret() {
    for (section, key, ..) in SECRETS {
        for text in ["", " \n\t\n", "\u{feff}"] {
            let secret = file(text);
            let error = load_file(&named(section, key, path(&secret)), &[]);
            let error = error.expect_err("no secret").to_string();
            let begin = format!("{section}.{key}_file in ");
            assert!(error.starts_with(&begin), "{error}");
            assert!(error.contains(path(&secret)), "{error}");
        }
        for missing in ["\"/no/such/file\"", "\"\"", "\" \"", "[\"/x\"]", "7"] {
            let error = load_file(&format!("[{section}]\n{key}_file = {missing}\n"), &[]);
            let error = error.expect_err(missing).to_string();
            assert!(
                error.contains(&format!("{section}.{key}_file in ")),
                "{error}"
            );
        }
    }
}

#[test]
fn a_secret_and_its_file_in_the_toml_file_are_an_error_that_names_both() {
    for (section, key, _, text) in SECRETS {
        let secret = file(text);
        let toml = named(section, key, path(&secret)) + &format!("{key} = {text:?}\n");
        let error = load_file(&toml, &[]).expect_err("two sources").to_string();
        assert!(error.contains(&format!("{section}.{key} in ")), "{error}");
        assert!(
            error.contains(&format!("{section}.{key}_file is set too")),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_environment_overrides_the_file_that_the_toml_file_names() {
    let other = DIGEST.replace("ada", "bob");
    let (ada, bob) = (file(DIGEST), file(&other));
    for (variable, value) in [
        ("LLAMATOWER_API_KEYS", &*other),
        ("LLAMATOWER_API_KEYS_FILE", path(&bob)),
    ] {
        for path in [path(&ada), "/no/such/file"] {
            let loaded = load_file(&named("keys", "api", path), &[(variable, value)]);
            let keys = loaded.expect("sound").settings.keys.api;
            assert_eq!(
                keys.iter().map(Secret::expose).collect::<Vec<_>>(),
                [&other]
            );
        }
    }
}

#[test]
fn an_error_in_a_named_file_names_the_key_and_the_file() {
    let keys = file("plain-text-key");
    let error = load_file(&named("keys", "api", path(&keys)), &[]);
    let error = error.expect_err("no digest").to_string();
    let begin = format!("keys.api_file={} in ", path(&keys));
    assert!(error.starts_with(&begin), "{error}");
    assert!(!error.contains("plain-text-key"), "{error}");
}

#[test]
fn only_secrets_have_files_and_a_misspelt_key_gets_a_suggestion() {
    for (section, key, meant) in [
        ("keys", "apis", "keys.api_file?"),
        ("keys", "api_keys", "keys.api_file?"),
        ("backends", "token", "backends.tokens_file?"),
        ("backends", "urls", "backends.urls?"),
        ("timeouts", "idle", "timeouts.idle?"),
    ] {
        let error = load_file(&named(section, key, "/x"), &[]).expect_err(key);
        let error = error.to_string();
        assert!(error.contains(&format!("did you mean {meant}")), "{error}");
    }
}

#[test]
fn lines_that_begin_with_a_hash_are_comments_in_files_of_lists() {
    let other = DIGEST.replace("ada", "bob");
    for text in [
        format!("# keys, one per line, of ada, bob\n{DIGEST}\n  # bob\n{other}\n"),
        format!("\u{feff}# keys\r\n{DIGEST}\r\n#\r\n{other}\r\n"),
        format!("#{DIGEST}\n{DIGEST},\n{other}\n#"),
    ] {
        let keys = file(&text);
        let loaded = load(&[("LLAMATOWER_API_KEYS_FILE", path(&keys))]);
        let loaded = loaded.unwrap_or_else(|error| panic!("{text}: {error}"));
        let read: Vec<_> = loaded
            .settings
            .keys
            .api
            .iter()
            .map(Secret::expose)
            .collect();
        assert_eq!(read, [DIGEST, &other], "{text}");
    }
    let tokens = file("# tokens, by server\nlocalhost=hunter2 # not a comment\n");
    assert!(load(&[("LLAMATOWER_BACKEND_TOKENS_FILE", path(&tokens))]).is_err());
    let tokens = file("# tokens, by server\nlocalhost=#hunter2\n");
    let loaded = load(&[("LLAMATOWER_BACKEND_TOKENS_FILE", path(&tokens))]);
    assert_eq!(loaded.expect("sound").settings.backends.tokens.len(), 1);
    // A single secret may begin with any character.
    let secret = file("#hunter2\n");
    let loaded = load(&[("GROQ_API_KEY_FILE", path(&secret))]).expect("sound");
    let groq = loaded.settings.keys.groq;
    assert_eq!(groq.as_ref().map(Secret::expose), Some("#hunter2"));
}
