//! Settings that are given but empty.

use super::*;

const SECRETS: [&str; 4] = [
    "LLAMATOWER_API_KEYS",
    "LLAMATOWER_ADMIN_KEYS",
    "LLAMATOWER_BACKEND_TOKENS",
    "GROQ_API_KEY",
];

fn secret_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("it can be written");
    file
}

fn refused(environment: &[(&str, &str)]) -> String {
    let error = load(environment).expect_err("nothing was given");
    error.to_string()
}

#[test]
fn an_empty_secret_file_is_an_error_with_its_variable_and_path() {
    for secret in SECRETS {
        let variable = format!("{secret}_FILE");
        for text in ["", "\n", " \n\t\n\r\n", "\u{feff}", "\u{feff}\r\n"] {
            let file = secret_file(text);
            let path = file.path().to_str().expect("a plain path");
            let error = refused(&[(&variable, path)]);
            assert!(error.contains(&variable) && error.contains(path), "{error}");
        }
    }
}

#[test]
fn a_file_with_only_separators_or_comments_is_an_error() {
    for secret in &SECRETS[..3] {
        let variable = format!("{secret}_FILE");
        for text in [",", ",\n,\n", " , , ", "# keys\n", "# ada=\n# grace=\n"] {
            let file = secret_file(text);
            let path = file.path().to_str().expect("a plain path");
            let error = refused(&[(&variable, path)]);
            assert!(error.contains(&variable) && error.contains(path), "{error}");
        }
    }
}

#[test]
fn a_variable_with_separators_and_no_item_is_an_error() {
    for variable in [
        "LLAMATOWER_API_KEYS",
        "LLAMATOWER_ADMIN_KEYS",
        "LLAMATOWER_BACKEND_TOKENS",
        "LLAMATOWER_LISTEN",
        "LLAMATOWER_ADMIN_LISTEN",
        "LLAMATOWER_METRICS_LISTEN",
        "OLLAMA_URL",
        "OLLAMA_ORIGINS",
        "LLAMATOWER_EXTRA_PATHS",
        "LLAMATOWER_DNS_SERVERS",
        "LLAMATOWER_SLOTS",
        "LLAMATOWER_KEY_TOKEN_LIMIT",
        "LLAMATOWER_KEY_LIMITS",
        "LLAMATOWER_KEY_MODELS",
        "LLAMATOWER_ALIASES",
    ] {
        for value in [",", " , ,", ",\n"] {
            let error = refused(&[(variable, value)]);
            assert!(error.contains(variable), "{error}");
            assert!(error.contains("only separators"), "{error}");
        }
    }
}

#[test]
fn an_empty_secret_in_the_toml_file_is_an_error() {
    for (key, value) in [
        ("api", "\"\""),
        ("api", "\" \""),
        ("api", "[]"),
        ("api", "[\"\"]"),
        ("api", "\",\""),
        ("admin", "[]"),
        ("groq", "\"\""),
    ] {
        let error = load_file(&format!("[keys]\n{key} = {value}\n"), &[]);
        let error = error.expect_err(value).to_string();
        assert!(error.contains(&format!("keys.{key} in ")), "{error}");
    }
}

#[test]
fn a_value_of_a_wrong_type_in_the_toml_file_is_an_error() {
    for text in [
        "[keys]\napi = {}\n",
        "[keys.api]\n",
        "[[keys.api]]\nname = \"ada\"\n",
        "[keys]\napi = 1979-05-27\n",
        "[keys]\napi = [1979-05-27]\n",
    ] {
        let error = load_file(text, &[]).expect_err(text).to_string();
        assert!(error.contains("keys.api"), "{text}: {error}");
    }
}

#[test]
fn an_empty_array_is_an_error_also_for_other_settings() {
    for (section, name) in [("backends", "urls"), ("listen", "origins")] {
        let error = load_file(&format!("[{section}]\n{name} = []\n"), &[]);
        let error = error.expect_err("nothing").to_string();
        assert!(error.contains(&format!("{section}.{name} in ")), "{error}");
    }
}

#[test]
fn an_empty_text_in_the_toml_file_counts_as_not_set_for_other_settings() {
    let loaded = load_file("[listen]\norigins = \"\"\n[timeouts]\ntotal = \"\"\n", &[]);
    let loaded = loaded.expect("as an empty variable");
    assert_eq!(loaded.settings.timeouts.total, None);
}

#[test]
fn a_blank_list_of_secrets_is_an_error_also_beside_other_sources() {
    let file = secret_file(DIGEST);
    let path = file.path().to_str().expect("a plain path");
    for secret in &SECRETS[..3] {
        for blank in ["", "  ", "\n", "\u{feff}"] {
            let error = refused(&[(secret, blank)]);
            assert!(
                error.starts_with(&format!("{secret}: it is empty")),
                "{error}"
            );
            assert!(error.contains("do not set it"), "{error}");
            refused(&[(secret, blank), (&format!("{secret}_FILE"), path)]);
        }
    }
    let in_file = format!("[keys]\napi = {DIGEST:?}\n");
    assert!(load_file(&in_file, &[("LLAMATOWER_API_KEYS", "")]).is_err());
}

#[test]
fn a_blank_path_of_a_secret_file_is_an_error() {
    for secret in SECRETS {
        let variable = format!("{secret}_FILE");
        for blank in ["", " ", "\t\n"] {
            let error = refused(&[(&variable, blank)]);
            assert!(
                error.starts_with(&format!("{variable}: it is empty")),
                "{error}"
            );
        }
    }
}

#[test]
fn a_blank_variable_of_a_single_secret_counts_as_not_set() {
    for blank in ["", "  "] {
        let loaded = load(&[("GROQ_API_KEY", blank)]).expect("not set");
        assert!(loaded.settings.keys.groq.is_none());
    }
}

#[test]
fn required_keys_are_api_keys() {
    let required = ("LLAMATOWER_REQUIRE_KEYS", "true");
    assert!(load(&[required, ("LLAMATOWER_API_KEYS", DIGEST)]).is_ok());
    let file = secret_file(DIGEST);
    let path = file.path().to_str().expect("a plain path");
    assert!(load(&[required, ("LLAMATOWER_API_KEYS_FILE", path)]).is_ok());
    // Administrators' keys do not restrict inference.
    let error = refused(&[required, ("LLAMATOWER_ADMIN_KEYS", DIGEST)]);
    assert!(error.contains("LLAMATOWER_API_KEYS"), "{error}");
}
