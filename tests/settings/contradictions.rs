//! Settings that contradict each other.

use super::*;

/// The warnings of a load.
fn warned(environment: &[(&str, &str)]) -> Vec<String> {
    let loaded = load(environment).unwrap_or_else(|error| panic!("{error}"));
    loaded.warnings.iter().map(Problem::to_string).collect()
}

fn refused(environment: &[(&str, &str)]) -> Vec<String> {
    let error = load(environment).expect_err("a contradiction");
    error.problems().iter().map(Problem::to_string).collect()
}

/// Asserts that one message contains all of these.
fn names(messages: &[String], named: &[&str]) {
    assert_eq!(messages.len(), 1, "{messages:#?}");
    for name in named {
        assert!(messages[0].contains(name), "{name} is not in {messages:?}");
    }
}

#[test]
fn the_defaults_contradict_nothing() {
    assert_eq!(warned(&[]), [""; 0]);
}

#[test]
fn a_setting_that_contradicts_another_is_a_warning_that_names_both() {
    for (settings, named) in [
        (
            &[("LLAMATOWER_MAX_IN_FLIGHT", "10")][..],
            ["MAX_IN_FLIGHT", "QUEUE_MAX_WAITING"],
        ),
        (
            &[
                ("LLAMATOWER_MAX_CONNECTIONS", "700"),
                ("LLAMATOWER_MAX_IN_FLIGHT", "800"),
            ],
            ["MAX_CONNECTIONS", "MAX_IN_FLIGHT"],
        ),
        (
            &[
                ("LLAMATOWER_SLOTS", "4"),
                ("LLAMATOWER_QUEUE_MAX_WAITING_PER_KEY", "600"),
            ],
            ["QUEUE_MAX_WAITING_PER_KEY", "QUEUE_MAX_WAITING ("],
        ),
        (
            &[
                ("LLAMATOWER_SLOTS", "4"),
                ("LLAMATOWER_QUEUE_MAX_WAIT", "1m"),
                ("LLAMATOWER_QUEUE_MAX_PREDICTED_WAIT", "2m"),
            ],
            ["QUEUE_MAX_PREDICTED_WAIT", "QUEUE_MAX_WAIT ("],
        ),
        (
            &[("LLAMATOWER_USAGE_DAYS", "60")],
            ["USAGE_DAYS", "STATE_DIR"],
        ),
        (
            &[("LLAMATOWER_QUEUE_AGEING", "5m")],
            ["QUEUE_AGEING", "QUEUE_MAX_WAIT"],
        ),
        (
            &[
                ("LLAMATOWER_TOTAL_TIMEOUT", "5m"),
                ("LLAMATOWER_FIRST_BYTE_TIMEOUT", "6m"),
            ],
            ["FIRST_BYTE_TIMEOUT", "TOTAL_TIMEOUT"],
        ),
        (
            &[
                ("LLAMATOWER_TOTAL_TIMEOUT", "5m"),
                ("LLAMATOWER_IDLE_TIMEOUT", "6m"),
            ],
            ["IDLE_TIMEOUT", "TOTAL_TIMEOUT"],
        ),
        (
            &[
                ("LLAMATOWER_TOTAL_TIMEOUT", "5m"),
                ("LLAMATOWER_LOAD_TIMEOUT", "20m"),
            ],
            ["LOAD_TIMEOUT", "TOTAL_TIMEOUT"],
        ),
        (
            &[("LLAMATOWER_LOAD_TIMEOUT", "5m")],
            ["LOAD_TIMEOUT", "FIRST_BYTE_TIMEOUT"],
        ),
        (
            &[
                ("LLAMATOWER_TOTAL_TIMEOUT", "1s"),
                ("LLAMATOWER_CONNECT_TIMEOUT", "2s"),
            ],
            ["CONNECT_TIMEOUT", "TOTAL_TIMEOUT"],
        ),
        (
            &[("LLAMATOWER_FIRST_BYTE_TARGET", "20m")],
            ["FIRST_BYTE_TARGET", "FIRST_BYTE_TIMEOUT"],
        ),
        (
            &[("LLAMATOWER_PROBE_TIMEOUT", "1s")],
            ["PROBE_TIMEOUT", "CONNECT_TIMEOUT"],
        ),
        (
            &[("LLAMATOWER_CACHE_TIME_TO_LIVE", "5m")],
            ["CACHE_TIME_TO_LIVE", "LLAMATOWER_CACHE ("],
        ),
        (
            &[
                ("LLAMATOWER_SLOTS", "off"),
                ("LLAMATOWER_QUEUE_MAX_WAITING", "64"),
            ],
            ["QUEUE_MAX_WAITING", "LLAMATOWER_SLOTS"],
        ),
        (
            &[("LLAMATOWER_BACKEND_CA_FILE", &*CA_FILE.1)],
            ["BACKEND_CA_FILE", "OLLAMA_URL"],
        ),
        (
            &[("LLAMATOWER_MANAGEMENT_BACKEND", "localhost")],
            ["MANAGEMENT_BACKEND", "ADMIN_KEYS"],
        ),
        (
            &[
                ("LLAMATOWER_BODY_LIMIT", "2MiB"),
                ("LLAMATOWER_BODY_MEMORY", "1MiB"),
            ],
            ["BODY_LIMIT", "BODY_MEMORY"],
        ),
    ] {
        names(&warned(settings), &named);
    }
}

#[test]
fn a_default_that_contradicts_another_setting_is_no_warning() {
    for settings in [
        &[("LLAMATOWER_TOTAL_TIMEOUT", "5m")][..],
        &[("LLAMATOWER_MAX_CONNECTIONS", "100")],
        &[
            ("LLAMATOWER_QUEUE_MAX_WAIT", "10s"),
            ("LLAMATOWER_SLOTS", "1"),
        ],
    ] {
        assert_eq!(warned(settings), [""; 0], "{settings:?}");
    }
}

#[test]
fn limits_for_an_unknown_key_are_a_warning_that_names_it() {
    let keys = ("LLAMATOWER_API_KEYS", DIGEST);
    let limits = |text| warned(&[keys, ("LLAMATOWER_KEY_LIMITS", text)]);
    names(
        &limits("adda:rate=7/m"),
        &["adda", "KEY_LIMITS", "API_KEYS", "ADMIN_KEYS"],
    );
    names(&limits("ada:rate=7/m, grace:tokens=7/day"), &["grace"]);
    assert_eq!(limits("ada:rate=7/m"), [""; 0]);
    names(
        &warned(&[("LLAMATOWER_KEY_LIMITS", "ada:rate=7/m")]),
        &["ada"],
    );
    let grace = DIGEST.replace("ada", "grace");
    let admin = [
        keys,
        ("LLAMATOWER_ADMIN_KEYS", &*grace),
        ("LLAMATOWER_KEY_LIMITS", "grace:rate=7/m"),
    ];
    assert_eq!(warned(&admin), [""; 0]);
    let shares = [
        keys,
        ("LLAMATOWER_SLOTS", "off"),
        ("LLAMATOWER_KEY_LIMITS", "ada:weight=2"),
    ];
    names(&warned(&shares), &["KEY_LIMITS", "LLAMATOWER_SLOTS"]);
}

#[test]
fn a_breaker_that_opens_for_longer_than_the_longest_time_is_an_error() {
    names(
        &refused(&[("LLAMATOWER_BREAKER_OPEN_FOR", "90s")]),
        &[
            "LLAMATOWER_BREAKER_OPEN_FOR",
            "LLAMATOWER_BREAKER_OPEN_AT_MOST",
        ],
    );
    let both = [
        ("LLAMATOWER_BREAKER_OPEN_FOR", "90s"),
        ("LLAMATOWER_BREAKER_OPEN_AT_MOST", "90s"),
    ];
    assert_eq!(warned(&both), [""; 0]);
}

#[test]
fn a_minimum_of_keep_alive_above_the_maximum_is_an_error() {
    let keys = ("LLAMATOWER_API_KEYS", DIGEST);
    names(
        &refused(&[keys, ("LLAMATOWER_MIN_KEEP_ALIVE", "31m")]),
        &["LLAMATOWER_MIN_KEEP_ALIVE", "LLAMATOWER_MAX_KEEP_ALIVE"],
    );
    let off = [
        keys,
        ("LLAMATOWER_MIN_KEEP_ALIVE", "31m"),
        ("LLAMATOWER_MAX_KEEP_ALIVE", "off"),
    ];
    assert_eq!(warned(&off), [""; 0]);
    names(
        &warned(&[("LLAMATOWER_MAX_KEEP_ALIVE", "1h")]),
        &["LLAMATOWER_MAX_KEEP_ALIVE", "LLAMATOWER_API_KEYS"],
    );
}

#[test]
fn listeners_that_cannot_be_bound_together_are_an_error_that_names_both() {
    let admin = ("LLAMATOWER_ADMIN_LISTEN", "127.0.0.1:3000");
    for public in [
        "127.0.0.1:3000",
        "0.0.0.0:3000",
        "localhost:3000",
        "[::ffff:127.0.0.1]:3000",
    ] {
        let key = ("LLAMATOWER_API_KEYS", DIGEST);
        let errors = refused(&[("LLAMATOWER_LISTEN", public), admin, key]);
        names(
            &errors,
            &["LLAMATOWER_LISTEN", "LLAMATOWER_ADMIN_LISTEN", ":3000"],
        );
    }
    names(
        &refused(&[admin]),
        &["LLAMATOWER_LISTEN", "LLAMATOWER_ADMIN_LISTEN"],
    );
    let both = [
        ("LLAMATOWER_LISTEN", "unix:/x"),
        ("LLAMATOWER_ADMIN_LISTEN", "unix:/x"),
    ];
    names(&refused(&both), &["LLAMATOWER_ADMIN_LISTEN", "unix:/x"]);
    let metrics = [("LLAMATOWER_METRICS_LISTEN", "127.0.0.1:3001")];
    names(
        &refused(&metrics),
        &[
            "LLAMATOWER_METRICS_LISTEN",
            "LLAMATOWER_ADMIN_LISTEN",
            ":3001",
        ],
    );
    names(
        &refused(&[("LLAMATOWER_LISTEN", "127.0.0.1:3000,0.0.0.0:3000")]),
        &["LLAMATOWER_LISTEN", "127.0.0.1:3000", "0.0.0.0:3000"],
    );
}

#[test]
fn listeners_on_other_addresses_or_any_port_are_fine() {
    for (public, admin) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:3000", "127.0.0.2:3000"),
        ("127.0.0.1:3000,[::1]:3000", "127.0.0.1:3001"),
        ("unix:/x", "unix:/y"),
    ] {
        let settings = [
            ("LLAMATOWER_LISTEN", public),
            ("LLAMATOWER_ADMIN_LISTEN", admin),
        ];
        assert_eq!(warned(&settings), [""; 0], "{public} {admin}");
    }
}

#[test]
fn a_server_that_is_named_twice_is_an_error_with_both_spellings() {
    for (servers, named) in [
        ("gpu-1,gpu-1", ["gpu-1", "twice"]),
        (
            "gpu-1,http://gpu-1:11434",
            ["gpu-1 and", "http://gpu-1:11434"],
        ),
        (
            "http://gpu-1,http://gpu-1:11434/",
            ["http://gpu-1 and", "http://gpu-1:11434/"],
        ),
        ("gpu-1,GPU-1", ["gpu-1 and", "GPU-1"]),
        ("gpu-1.,gpu-1", ["gpu-1. and", "gpu-1"]),
        (
            "https://gpu/a,https://gpu:443/a/",
            ["https://gpu/a", "https://gpu:443/a/"],
        ),
        ("[::1],[0:0:0:0:0:0:0:1]", ["[::1]", "[0:0:0:0:0:0:0:1]"]),
    ] {
        let errors = refused(&[("OLLAMA_URL", servers)]);
        names(&errors, &["OLLAMA_URL", named[0], named[1]]);
    }
    for servers in [
        "gpu-1,gpu-2",
        "gpu-1,gpu-1:11435",
        "https://gpu/a,https://gpu/b",
    ] {
        assert_eq!(warned(&[("OLLAMA_URL", servers)]), [""; 0], "{servers}");
    }
    names(
        &warned(&[("OLLAMA_URL", "localhost,127.0.0.1:11434")]),
        &["OLLAMA_URL", "localhost:11434", "127.0.0.1:11434"],
    );
}

#[test]
fn a_server_that_is_the_gateway_itself_is_an_error() {
    for (listen, server) in [
        ("127.0.0.1:11434", "localhost"),
        ("127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("0.0.0.0:3000", "http://localhost:3000/"),
        ("[::1]:3000", "http://[::1]:3000"),
    ] {
        let key = ("LLAMATOWER_API_KEYS", DIGEST);
        let errors = refused(&[("LLAMATOWER_LISTEN", listen), ("OLLAMA_URL", server), key]);
        names(&errors, &["OLLAMA_URL", "LLAMATOWER_LISTEN", listen]);
    }
    let elsewhere = [
        ("LLAMATOWER_LISTEN", "127.0.0.2:11434"),
        ("OLLAMA_URL", "127.0.0.1"),
    ];
    assert_eq!(warned(&elsewhere), [""; 0]);
}

#[test]
fn an_endpoint_of_a_collector_without_a_scheme_is_an_error() {
    for variable in [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    ] {
        for endpoint in [
            "collector:4318",
            "collector",
            "localhost",
            "//collector:4318",
        ] {
            let errors = refused(&[(variable, endpoint)]);
            names(&errors, &[variable, endpoint, "http://"]);
        }
        assert!(load(&[(variable, "http://collector:4318")]).is_ok());
    }
    let off = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    assert!(load(&off).is_ok(), "nothing is exported");
}

#[test]
fn a_listener_beyond_loopback_without_keys_is_a_warning() {
    for address in [
        "0.0.0.0:3000",
        "[::]:3000",
        "10.0.0.7:3000",
        "127.0.0.1:3000,0.0.0.0:3002",
    ] {
        let listen = ("LLAMATOWER_LISTEN", address);
        names(
            &warned(&[listen]),
            &[
                "LLAMATOWER_LISTEN",
                "LLAMATOWER_API_KEYS",
                "LLAMATOWER_REQUIRE_KEYS",
            ],
        );
        assert_eq!(warned(&[listen, ("LLAMATOWER_API_KEYS", DIGEST)]), [""; 0]);
        // Administrators' keys do not restrict inference.
        names(
            &warned(&[listen, ("LLAMATOWER_ADMIN_KEYS", DIGEST)]),
            &["LLAMATOWER_API_KEYS"],
        );
    }
    for address in ["127.0.0.1:3000", "[::1]:3000", "unix:/run/x"] {
        assert_eq!(
            warned(&[("LLAMATOWER_LISTEN", address)]),
            [""; 0],
            "{address}"
        );
    }
}

#[test]
fn signs_of_other_users_without_keys_are_one_warning() {
    let proxies = ("LLAMATOWER_TRUSTED_PROXIES", "10.0.0.2");
    let hosts = ("LLAMATOWER_ALLOWED_HOSTS", "llm.example");
    let admin = ("LLAMATOWER_ADMIN_KEYS", DIGEST);
    let any = ("LLAMATOWER_ALLOWED_HOSTS", "*");
    let unix = ("LLAMATOWER_TRUSTED_PROXIES", "unix");
    let keys = [
        ("LLAMATOWER_API_KEYS", DIGEST),
        ("LLAMATOWER_REQUIRE_KEYS", "true"),
    ];
    for sign in [proxies, hosts, admin, any, unix] {
        let told = [
            "LLAMATOWER_API_KEYS",
            "LLAMATOWER_REQUIRE_KEYS",
            "every model",
        ];
        names(&warned(&[sign]), &[&[sign.0], &told[..]].concat());
        assert_eq!(warned(&[sign, keys[0]]), [""; 0]);
        assert_eq!(warned(&[sign, keys[0], keys[1]]), [""; 0]);
        assert_eq!(refused(&[sign, keys[1]]).len(), 1, "already an error");
    }
    names(&warned(&[proxies, hosts, admin]), &["TRUSTED_PROXIES"]);
    let blank = ("LLAMATOWER_TRUSTED_PROXIES", " ");
    assert_eq!(warned(&[blank]), [""; 0]);
}

#[test]
fn trusted_proxies_that_contain_all_addresses_are_a_warning() {
    let keys = ("LLAMATOWER_API_KEYS", DIGEST);
    for all in [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.7/0",
        "10.0.0.2, ::/0, unix",
        "0.0.0.0/1, 128.0.0.0/1",
    ] {
        let proxies = ("LLAMATOWER_TRUSTED_PROXIES", all);
        names(
            &warned(&[proxies, keys]),
            &["TRUSTED_PROXIES", "all addresses"],
        );
    }
    for some in ["10.0.0.0/8, fd00::/8", "0.0.0.0", "0.0.0.0/1", "unix"] {
        let proxies = ("LLAMATOWER_TRUSTED_PROXIES", some);
        assert_eq!(warned(&[proxies, keys]), [""; 0], "{some}");
    }
}

#[test]
fn a_heartbeat_above_the_first_byte_timeout_is_a_warning() {
    let heartbeat = ("LLAMATOWER_HEARTBEAT", "20s");
    for timeout in ["LLAMATOWER_FIRST_BYTE_TIMEOUT", "OLLAMA_TIMEOUT"] {
        let told = warned(&[heartbeat, (timeout, "19s")]);
        names(&told, &["LLAMATOWER_HEARTBEAT", timeout, "no effect"]);
        assert_eq!(warned(&[heartbeat, (timeout, "21s")]), [""; 0]);
        assert_eq!(warned(&[heartbeat, (timeout, "off")]), [""; 0]);
    }
    let above_the_default = [("LLAMATOWER_HEARTBEAT", "20m")];
    names(
        &warned(&above_the_default),
        &["HEARTBEAT", "FIRST_BYTE_TIMEOUT"],
    );
}

#[test]
fn an_extra_path_that_is_known_keeps_its_own_rules_and_is_a_warning() {
    for path in [
        "POST /api/pull",
        "GET /api/chat",
        "DELETE /api/delete",
        "/v1/models/x",
    ] {
        let settings = [("LLAMATOWER_EXTRA_PATHS", path)];
        names(&warned(&settings), &["LLAMATOWER_EXTRA_PATHS", "/"]);
        let backends = load(&settings).expect("valid").settings.backends;
        let pull = backends.endpoints().expect("valid");
        let pull = pull.look_up(&http::Method::POST, "/api/pull");
        let operation = pull.operation().expect("it is known");
        assert!(operation.is_management(), "{path}");
    }
}

#[test]
fn an_extra_path_that_would_never_be_reached_is_refused() {
    let error = load(&[("LLAMATOWER_EXTRA_PATHS", "/openai/v1/rerank")]);
    let error = error.expect_err("it is served as /v1/rerank").to_string();
    names(
        &[error],
        &["LLAMATOWER_EXTRA_PATHS", "served as /v1/rerank"],
    );
    for path in ["/openai/v2/rerank", "/openai/v1"] {
        assert!(load(&[("LLAMATOWER_EXTRA_PATHS", path)]).is_ok(), "{path}");
    }
}

#[test]
fn an_extra_path_has_the_methods_of_all_its_items() {
    let settings = [("LLAMATOWER_EXTRA_PATHS", "GET /api/x, POST /api/x")];
    let backends = load(&settings).expect("valid").settings.backends;
    let endpoints = backends.endpoints().expect("valid");
    for method in [http::Method::GET, http::Method::POST] {
        assert!(endpoints.look_up(&method, "/api/x").operation().is_some());
    }
}

#[test]
fn the_cloud_needs_a_key_and_models_and_a_key_alone_switches_nothing_on() {
    let when = ("LLAMATOWER_CLOUD_WHEN", "down,busy");
    let key = ("GROQ_API_KEY", "gsk-hunter2");
    let models = ("LLAMATOWER_CLOUD_MODELS", "a=b/c");
    names(&refused(&[when, models]), &["CLOUD_WHEN", "GROQ_API_KEY"]);
    names(&refused(&[when, key]), &["CLOUD_WHEN", "CLOUD_MODELS"]);
    let spaced = ("GROQ_API_KEY", "gsk hunter2 x");
    let refusal = refused(&[when, models, spaced]);
    names(&refusal, &["GROQ_API_KEY"]);
    assert!(!refusal[0].contains("hunter2"), "{refusal:?}");

    let alone = load(&[key]).expect("valid");
    assert!(!alone.settings.cloud.when.is_on() && alone.warnings.is_empty());
    let keys = ("LLAMATOWER_API_KEYS", DIGEST);
    assert_eq!(warned(&[when, key, models, keys]), [""; 0]);
    names(&warned(&[models]), &["CLOUD_MODELS", "CLOUD_WHEN"]);
    names(
        &warned(&[when, key, models]),
        &["API_KEYS", "CLOUD_ANONYMOUS"],
    );
    let unlimited = ("LLAMATOWER_CLOUD_TOKENS", "off");
    names(
        &warned(&[when, key, models, keys, unlimited]),
        &["CLOUD_TOKENS"],
    );
    let opt_out = ("LLAMATOWER_CLOUD_KEYS_OPT_OUT", "nobody");
    names(&warned(&[opt_out]), &["KEYS_OPT_OUT", "nobody"]);
    for wrong in ["a", "a=", "a=b,a:latest=c", "a b=c"] {
        names(
            &refused(&[("LLAMATOWER_CLOUD_MODELS", wrong)]),
            &["CLOUD_MODELS"],
        );
    }
}

#[test]
fn an_openai_compatible_server_loads_no_model_for_the_gateway() {
    let servers = ("OLLAMA_URL", "gpu-1:11434,openai+http://gpu-2:8000/v1");
    for variable in ["LLAMATOWER_PRELOAD_MODELS", "LLAMATOWER_PINNED_MODELS"] {
        let refusal = refused(&[servers, (variable, "gpu-2:8000=qwen3:4b")]);
        names(&refusal, &[variable, "gpu-2:8000", "OpenAI-compatible"]);
        for fine in ["gpu-1:11434=qwen3:4b", "qwen3:4b"] {
            assert!(load(&[servers, (variable, fine)]).is_ok(), "{fine}");
        }
    }
}

#[test]
fn a_sync_that_pulls_nothing_is_a_warning() {
    let sync = ("LLAMATOWER_MODELS_SYNC", "10m");
    names(&warned(&[sync]), &["MODELS_SYNC", "[models]"]);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = "[models]\nall = [\"a\"]\ngpu-1 = [\"b\"]\n\"gpu-2:8000\" = [\"c\"]\n";
    file.write_all(text.as_bytes()).expect("it can be written");
    let load = |environment: &[(&str, &str)]| {
        let environment = Environment::from_iter(environment.iter().copied());
        let loaded = Settings::load(Some(file.path()), &environment).expect("valid settings");
        let warnings = loaded.warnings.iter().map(Problem::to_string);
        warnings.collect::<Vec<_>>()
    };
    let servers = (
        "OLLAMA_URL",
        "http://gpu-1:11434,openai+http://gpu-2:8000/v1",
    );
    names(&load(&[servers, sync]), &["[models]", "gpu-2:8000"]);
    names(&load(&[servers]), &["gpu-2:8000", "models sync"]);
}
