//! Variables and keys that are not settings.

use super::*;

/// The error about one variable.
fn refused(variable: &str) -> String {
    let error = load(&[(variable, "1")]).expect_err(variable);
    error.to_string()
}

#[test]
fn an_unknown_variable_is_an_error_with_a_suggestion() {
    for (given, meant) in [
        ("LLAMATOWER_API_KEY", "LLAMATOWER_API_KEYS?"),
        ("LLAMATOWER_API_KEY_FILE", "LLAMATOWER_API_KEYS_FILE?"),
        ("LLAMATOWER_DEFAULT_MODEL", "DEFAULT_OLLAMA_MODEL?"),
        ("LLAMATOWER_BACKENDS", "OLLAMA_URL?"),
        ("LLAMATOWER_OLLAMA_URL", "OLLAMA_URL?"),
        ("LLAMATOWER_REQUEST_TIMEOUT", "LLAMATOWER_TOTAL_TIMEOUT?"),
        ("LLAMATOWER_LISTEN_FILE", "LLAMATOWER_LISTEN?"),
        ("llamatower_api_keys", "LLAMATOWER_API_KEYS?"),
        ("Llamatower_Listen", "LLAMATOWER_LISTEN?"),
        ("LLAMA_TOWER_API_KEYS", "LLAMATOWER_API_KEYS?"),
    ] {
        let error = refused(given);
        assert!(error.contains(given), "{error}");
        assert!(error.contains(&format!("did you mean {meant}")), "{error}");
    }
}

#[test]
fn variables_of_commands_are_accepted() {
    let of_commands = [
        ("LLAMATOWER_ADMIN_KEY", "llt_secret"),
        ("LLAMATOWER_CONFIG", "llamatower.toml"),
    ];
    let loaded = load(&of_commands).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn a_misspelt_variable_of_a_command_is_not_sent_to_the_list_of_digests() {
    for wrong in ["LLAMATOWER_ADMIN_KEY_FILE", "llamatower_admin_key"] {
        let error = refused(wrong);
        assert!(error.contains("--key-file"), "{error}");
        assert!(
            error.contains("the digests of keys in LLAMATOWER_ADMIN_KEYS"),
            "{error}"
        );
    }
}

#[test]
fn a_variable_unlike_all_settings_is_an_error_with_a_hint() {
    let error = refused("LLAMATOWER_XYZZY");
    assert!(error.contains("llamatower reference"), "{error}");
}

#[test]
fn a_value_of_an_unknown_variable_is_not_shown() {
    let error = load(&[("LLAMATOWER_API_KEY", "hunter2")]).expect_err("unknown");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn unknown_variables_and_keys_are_warnings_if_allowed() {
    let allowed = ("LLAMATOWER_ALLOW_UNKNOWN", "true");
    let loaded = load_file(
        "[timeouts]\nconect = 2\n",
        &[allowed, ("LLAMATOWER_API_KEY", "x")],
    );
    let warnings = loaded.expect("allowed").warnings;
    let subjects: Vec<_> = warnings.iter().map(Problem::subject).collect();
    assert_eq!(subjects.len(), 2, "{warnings:?}");
    assert!(subjects[0].starts_with("timeouts.conect in "));
    assert_eq!(subjects[1], "LLAMATOWER_API_KEY");
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_no_errors() {
    let of_services = [
        ("LLAMATOWER_SERVICE_HOST", "10.43.7.1"),
        ("LLAMATOWER_SERVICE_PORT", "80"),
        ("LLAMATOWER_SERVICE_PORT_HTTP", "80"),
        ("LLAMATOWER_PORT", "tcp://10.43.7.1:80"),
        ("LLAMATOWER_PORT_80_TCP", "tcp://10.43.7.1:80"),
        ("LLAMATOWER_PORT_80_TCP_PROTO", "tcp"),
        ("LLAMATOWER_PORT_80_TCP_PORT", "80"),
        ("LLAMATOWER_PORT_80_TCP_ADDR", "10.43.7.1"),
        ("LLAMATOWER_ADMIN_SERVICE_HOST", "fd00::7"),
        ("LLAMATOWER_ADMIN_SERVICE_PORT", "3001"),
        ("LLAMATOWER_ADMIN_SERVICE_PORT_ADMIN_PORT", "3001"),
        ("LLAMATOWER_ADMIN_PORT", "tcp://[fd00::7]:3001"),
        ("LLAMATOWER_ADMIN_PORT_3001_UDP", "udp://[fd00::7]:3001"),
        ("LLAMATOWER_ADMIN_PORT_3001_UDP_ADDR", "fd00::7"),
    ];
    let loaded = load(&of_services).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn a_variable_with_the_name_but_not_the_value_of_a_services_is_a_typo() {
    let host = ("LLAMATOWER_SERVICE_HOST", "10.43.7.1");
    for typo in [
        ("LLAMATOWER_PORT", "3000"),
        ("LLAMATOWER_SERVICE_PORT", "http"),
        ("LLAMATOWER_SERVICE_PORTS", "80"),
        ("LLAMATOWER_PORT_80_TCP_ADDR", "tower"),
        ("LLAMATOWER_PORT_80_ICMP", "tcp://10.43.7.1:80"),
        ("LLAMATOWER_METRICS_SERVICE_PORT", "3001"),
    ] {
        let error = load(&[host, typo]).expect_err(typo.0).to_string();
        assert!(error.contains(typo.0), "{error}");
    }
    let error = load(&[("LLAMATOWER_PORT", "tcp://10.43.7.1:80")]);
    assert!(error.is_err(), "there is no Service of this name");
}

#[test]
fn a_misspelt_variable_without_the_prefix_is_a_warning() {
    for (given, meant) in [
        ("OLLAMA_URLS", "OLLAMA_URL"),
        ("OLAMA_URL", "OLLAMA_URL"),
        ("OLLAMA_ORIGIN", "OLLAMA_ORIGINS"),
        ("DEFAULT_OLAMA_MODEL", "DEFAULT_OLLAMA_MODEL"),
        ("OLLAMA_DEFAULT_MODEL", "DEFAULT_OLLAMA_MODEL"),
        ("OLLAMA_BACKENDS", "OLLAMA_URL"),
        ("OLLAMA_BACKEND_URLS", "OLLAMA_URL"),
        ("OLLAMA_SERVERS", "OLLAMA_URL"),
        ("OLLAMA_HOSTS", "OLLAMA_URL"),
        ("ollama_url", "OLLAMA_URL"),
        ("OLLAMA_URL_FILE", "OLLAMA_URL? It is not a secret"),
        ("OLLAMA_URLS_FILE", "OLLAMA_URL? It is not a secret"),
        ("OLLAMA_ORIGINS_FILE", "OLLAMA_ORIGINS? It is not a secret"),
        ("GROQ_API_KEYS_FILE", "GROQ_API_KEY_FILE?"),
    ] {
        let warnings = load(&[(given, "x")]).expect("it may be another's").warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].subject(), given);
        assert!(warnings[0].reason().contains(meant), "{warnings:?}");
    }
}

#[test]
fn variables_of_ollama_and_of_a_service_named_ollama_are_not_doubtful() {
    let names = [
        "OLLAMA_HOST",
        "OLLAMA_MODELS",
        "OLLAMA_KEEP_ALIVE",
        "OLLAMA_LOAD_TIMEOUT",
        "OLLAMA_NUM_PARALLEL",
        "OLLAMA_MAX_LOADED_MODELS",
        "OLLAMA_MAX_QUEUE",
        "OLLAMA_CONTEXT_LENGTH",
        "OLLAMA_DEBUG",
        "OLLAMA_FLASH_ATTENTION",
        "OLLAMA_KV_CACHE_TYPE",
        "OLLAMA_LLM_LIBRARY",
        "OLLAMA_GPU_OVERHEAD",
        "OLLAMA_SCHED_SPREAD",
        "OLLAMA_MULTIUSER_CACHE",
        "OLLAMA_NEW_ENGINE",
        "OLLAMA_NOHISTORY",
        "OLLAMA_NOPRUNE",
        "OLLAMA_REMOTES",
        "OLLAMA_AUTH",
        "OLLAMA_API_KEY",
        "OLLAMA_EDITOR",
        "OLLAMA_VULKAN",
        "OLLAMA_VERSION",
        "OLLAMA_PORT",
        "OLLAMA_PORT_11434_TCP",
        "OLLAMA_SERVICE_HOST",
        "OLLAMA_BACKEND_SERVICE_HOST",
        "OLLAMA_MODEL",
        "OPENAI_API_KEY",
        "PATH",
    ];
    let others: Vec<_> = names.iter().map(|name| (*name, "x")).collect();
    let warnings = load(&others).expect("others'").warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn a_key_of_the_toml_file_by_another_name_is_an_error_with_a_suggestion() {
    for (section, name, meant) in [
        ("listen", "port", "listen.public"),
        ("listen", "address", "listen.public"),
        ("listen", "host", "listen.public"),
        ("listen", "bind", "listen.public"),
        ("backends", "servers", "backends.urls"),
        ("backends", "hosts", "backends.urls"),
        ("backends", "url", "backends.urls"),
    ] {
        let error = load_file(&format!("[{section}]\n{name} = \"x\"\n"), &[]);
        let error = error.expect_err(name).to_string();
        assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
    }
}

#[test]
fn all_kinds_of_errors_are_reported_together() {
    let error = load_file(
        "[timeouts]\nconect = 2\n",
        &[
            ("LLAMATOWER_IDLE_TIMEOUT", "soon"),
            ("LLAMATOWER_API_KEY", "x"),
            ("LLAMATOWER_BREAKER_OPEN_FOR", "2m"),
            ("LLAMATOWER_EXTRA_PATHS", "no-slash"),
            ("LLAMATOWER_API_KEYS", "plain-text-key"),
            ("LLAMATOWER_LOG", "inof"),
            ("LLAMATOWER_SLOTS", "gpu-9=4"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ],
    );
    let error = error.expect_err("much is wrong");
    let text = error.to_string();
    for named in [
        "timeouts.conect",
        "LLAMATOWER_IDLE_TIMEOUT",
        "LLAMATOWER_API_KEY:",
        "LLAMATOWER_BREAKER_OPEN_FOR",
        "LLAMATOWER_EXTRA_PATHS",
        "LLAMATOWER_API_KEYS:",
        "LLAMATOWER_LOG",
        "LLAMATOWER_SLOTS",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        assert!(text.contains(named), "{named} is not in:\n{text}");
    }
    assert_eq!(error.problems().len(), 9, "{text}");
}

#[test]
fn a_wrong_server_causes_no_second_error_where_it_is_named() {
    let error = load(&[
        ("OLLAMA_URL", "http://gpu-1:x"),
        ("LLAMATOWER_SLOTS", "gpu-1=4"),
        ("LLAMATOWER_MANAGEMENT_BACKEND", "gpu-1"),
    ]);
    let error = error.expect_err("no port");
    assert_eq!(error.problems().len(), 1, "{error}");
}
