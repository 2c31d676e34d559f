//! The settings: values and errors.

#![allow(missing_docs)]

mod alias_tables;
mod cloud;
mod contradictions;
mod declared_models;
mod examples;
mod mutations;
mod nothing;
mod secret_files;
mod server_tables;
mod tls;
mod unknown;

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::time::Duration;

use llamatower::settings::*;
use llamatower_layers::rate_limit::Quota;

fn load(environment: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
    Settings::load(None, &environment.iter().copied().collect())
}

fn load_file(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("it can be written");
    Settings::load(Some(file.path()), &environment.iter().copied().collect())
}

const DIGEST: &str = "ada=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A file with an authority's certificate, and its path.
static CA_FILE: LazyLock<(tempfile::NamedTempFile, String)> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = rcgen::CertificateParams::default().self_signed(&key);
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let pem = authority.expect("a certificate").pem();
    file.write_all(pem.as_bytes()).expect("it can be written");
    let path = file.path().to_str().expect("a plain path").to_owned();
    (file, path)
});

/// Files with a certificate and its key.
static TLS: LazyLock<tls::Pair> = LazyLock::new(tls::Pair::new);

/// A keys file, and its path.
static KEYS_FILE: LazyLock<(tempfile::NamedTempFile, String)> = LazyLock::new(|| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = DIGEST.replace("ada=", "[keys.ben]\ndigest = \"") + "\"\n";
    file.write_all(text.as_bytes()).expect("it can be written");
    let path = file.path().to_str().expect("a plain path").to_owned();
    (file, path)
});

/// A valid value other than the default, for each form.
fn another_value(setting: &Setting) -> &'static str {
    match (setting.key, setting.form) {
        ("listen.public", _) => "127.0.0.1:4000,[::1]:4000",
        ("listen.admin", _) => "off",
        ("listen.metrics", _) => "127.0.0.1:9090",
        ("listen.base_path", _) => "/ollama",
        ("listen.origins", _) => "https://chat.example",
        ("listen.allowed_hosts", _) => "llm.example, *.corp.example",
        ("listen.trusted_proxies", _) => "10.0.0.0/8, ::1, unix",
        ("listen.proxy_protocol", _) => "required",
        ("keys.user_headers", _) => "X-User-Email, X-User",
        ("listen.http2", _) => "all",
        ("tls.cert", _) => &TLS.cert,
        ("tls.key", _) => &TLS.key,
        ("tls.client_ca", _) => &CA_FILE.1,
        ("tls.client_certs", _) => "optional",
        ("tls.client_identities", _) => "laptop-7=ada",
        ("tls.listeners", _) => "public",
        ("backends.management", _) => "localhost:11434",
        ("backends.ca_file", _) => &CA_FILE.1,
        ("keys.file", _) => &KEYS_FILE.1,
        (_, Form::ServerWeights) => "localhost=0.5",
        (_, Form::ServerLabels) => "localhost=a100, localhost=zone=b",
        (_, Form::ServerModels) => "localhost=llama3*, localhost=qwen3:4b",
        (_, Form::PlacedModels) => "localhost=llama3.2, qwen3:4b",
        ("backends.extra_paths", _) => "POST /api/rerank",
        ("backends.dns_servers", _) => "10.0.0.2:53, [::1]:8600",
        ("limits.time_zone", _) => "Europe/Zurich",
        ("limits.num_ctx", _) => "exact",
        ("telemetry.log", _) => "debug",
        ("telemetry.log_format", _) => "json",
        ("telemetry.trace_url", _) => "https://traces.example/{trace_id}",
        ("telemetry.semconv", _) => "both",
        ("runtime.worker_threads", _) => "3",
        ("cloud.url", _) => "https://llm.example/v1",
        ("sharing.redis", _) => "redis://redis.example:6379/1",
        ("sharing.rates_without_redis", _) => "open",
        ("sharing.tokens_without_redis", _) => "closed",
        ("sharing.slots_without_redis", _) => "open",
        (_, Form::Text | Form::File | Form::Directory | Form::Secret | Form::List) => "other",
        (_, Form::SecretList) => DIGEST,
        (_, Form::ServerSecrets) => "localhost=hunter2",
        (_, Form::Duration | Form::OptionalDuration) => "7m",
        (_, Form::Count | Form::CountOrAuto) => "7",
        (_, Form::Number) => "0.7",
        (_, Form::Size | Form::OptionalSize | Form::SizeOrShare) => "7MiB",
        (_, Form::Rate | Form::RateOrAuto) => "7/m",
        (_, Form::TokenBudgets) => "7/minute, 700/month",
        (_, Form::Slots) => "7, localhost:11434=8",
        (_, Form::OptionalCount) => "7",
        (_, Form::KeyLimits) => "ada:rate=7/m, ada:tokens=7/day",
        (_, Form::Aliases) => {
            "gpt=qwen3:4b, fast=qwen3:4b|llama3, small=cheapest(a|b), mix=a*9|b*1"
        }
        (_, Form::NetworkNames) => "10.1.0.0/16=lab, 192.168.7.4=buildbot",
        (_, Form::KeyModels) => "ada=qwen*|llama3.2, bob=*:1b",
        (_, Form::CloudWhen) => "down, busy",
        (_, Form::CloudModels) => "qwen3:4b=openai/gpt-oss-20b",
        (_, Form::Switch) if setting.default == "true" => "off",
        (_, Form::Switch) => "on",
    }
}

/// Other settings that this setting requires.
fn needed_by(setting: &Setting) -> impl Iterator<Item = (&'static str, &'static str)> {
    let certificate = ("LLAMATOWER_TLS_CERT", &*TLS.cert);
    let key = ("LLAMATOWER_TLS_KEY", &*TLS.key);
    let of_tls = match setting.key {
        "tls.cert" => vec![key],
        "tls.key" => vec![certificate],
        "tls.client_ca" | "tls.listeners" => vec![certificate, key],
        _ => vec![],
    };
    let needed: &[_] = match setting.key {
        "keys.required" => &[("LLAMATOWER_API_KEYS", DIGEST)],
        "listen.proxy_protocol" => &[("LLAMATOWER_TRUSTED_PROXIES", "10.0.0.1")],
        "breaker.open_for" => &[("LLAMATOWER_BREAKER_OPEN_AT_MOST", "1h")],
        "cloud.when" => &[
            ("GROQ_API_KEY", "hunter2"),
            ("LLAMATOWER_CLOUD_MODELS", "a=b"),
        ],
        _ => &[],
    };
    needed.iter().copied().chain(of_tls)
}

/// An invalid value for each form.
fn bad_value(setting: &Setting) -> Option<&'static str> {
    match (setting.key, setting.form) {
        ("listen.public" | "listen.admin" | "listen.metrics", _) => Some("nowhere"),
        ("listen.base_path", _) => Some("no-slash"),
        ("listen.allowed_hosts", _) => Some("https://llm.example"),
        ("listen.trusted_proxies", _) => Some("10.0.0.0/64"),
        ("backends.urls", _) => Some("ftp://gpu"),
        ("backends.management", _) => Some("elsewhere:1"),
        ("backends.extra_paths", _) => Some("POST /api/../x"),
        (_, Form::PlacedModels) => Some("localhost=no model"),
        ("backends.dns_servers", _) => Some("dns.example"),
        ("limits.time_zone", _) => Some("Nowhere/Else"),
        ("cloud.url", _) => Some("llm.example"),
        ("sharing.redis_prefix", _) => Some("with a space"),
        ("sharing.peers", _) => Some("peers:3000"),
        (
            "limits.num_ctx"
            | "telemetry.log"
            | "telemetry.log_format"
            | "listen.http2"
            | "tls.client_certs"
            | "tls.client_identities"
            | "tls.listeners"
            | "telemetry.trace_url"
            | "telemetry.semconv"
            | "sharing.redis"
            | "sharing.rates_without_redis"
            | "sharing.tokens_without_redis"
            | "sharing.slots_without_redis"
            | "runtime.worker_threads",
            _,
        ) => Some("neither"),
        (_, Form::Text | Form::Directory | Form::Secret | Form::List) => None,
        _ => Some("neither"),
    }
}

fn effective<'a>(loaded: &'a Loaded, setting: &Setting) -> &'a EffectiveSetting {
    let mut rows = loaded.effective.iter();
    rows.find(|row| row.setting.key == setting.key)
        .expect("every setting is reported")
}

#[test]
fn every_setting_can_be_given_by_the_environment_alone() {
    let before = format!("{:?}", load(&[]).expect("the defaults are sound").settings);
    for setting in SETTINGS {
        let mut environment = vec![(setting.variable, another_value(setting))];
        environment.extend(needed_by(setting));
        if setting.key == "backends.management" {
            environment.push(("OLLAMA_URL", "gpu-1,localhost:11434"));
        }
        let loaded = load(&environment).unwrap_or_else(|error| panic!("{error}"));
        let row = effective(&loaded, setting);
        assert_eq!(row.source, setting.variable);
        assert_ne!(
            format!("{:?}", loaded.settings),
            before,
            "{} does nothing",
            setting.variable
        );
    }
}

#[test]
fn every_setting_can_be_given_by_the_file_and_the_environment_wins() {
    for setting in SETTINGS {
        let (section, name) = setting.key.split_once('.').expect("keys have sections");
        let mut text = format!("[{section}]\n{name} = {:?}\n", another_value(setting));
        if setting.key == "backends.management" {
            text.push_str("urls = [\"gpu-1\", \"localhost:11434\"]\n");
        }
        let needed: Vec<_> = needed_by(setting).collect();
        let loaded = load_file(&text, &needed).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(
            effective(&loaded, setting).source,
            "default",
            "{}",
            setting.key
        );
        let mut wins = vec![
            ("OLLAMA_URL", "gpu-1,localhost:11434"),
            (setting.variable, another_value(setting)),
        ];
        wins.extend(needed_by(setting));
        let loaded = load_file(&text, &wins).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(effective(&loaded, setting).source, setting.variable);
    }
}

#[test]
fn a_bad_value_is_named_with_its_variable_and_what_is_expected() {
    for setting in SETTINGS {
        let Some(bad) = bad_value(setting) else {
            continue;
        };
        let error = load(&[(setting.variable, bad)])
            .expect_err(setting.variable)
            .to_string();
        assert!(error.contains(setting.variable), "{error}");
        // Here the form would say nothing more than the reason.
        let is_told = !matches!(
            setting.form,
            Form::Text | Form::List | Form::SecretList | Form::File
        );
        let form = format!("expected {}", setting.form.describe());
        assert_eq!(error.contains(&form), is_told, "{error}");
        assert_eq!(
            error.contains("expected"),
            is_told || error.contains("sha256"),
            "{error}"
        );
        assert_eq!(error.contains(bad), !setting.form.is_secret(), "{error}");
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let error = load(&[
        ("OLLAMA_TIMEOUT", "x"),
        ("LLAMATOWER_CONNECT_TIMEOUT", "x"),
        ("LLAMATOWER_LISTEN", "y"),
        ("OLLAMA_URL", "ftp://z"),
    ]);
    assert_eq!(
        error.expect_err("four things are wrong").problems().len(),
        4
    );
}

#[test]
fn a_mistake_in_a_file_does_not_make_settings_seem_to_be_missing() {
    let pair = tls::Pair::new();
    let text = format!("[tls]\ncert = {:?}\nkey = {:?}\n", pair.cert, pair.key);
    let environment = [
        ("LLAMATOWER_TLS_LISTENERS", "public"),
        ("LLAMATOWER_TLS_CLIENT_CERTS", "required"),
        ("LLAMATOWER_TLS_CLIENT_CA", &pair.cert),
    ];
    load_file(&text, &environment).expect("valid");
    let error = load_file(&format!("{text}oops\n"), &environment).expect_err("no TOML");
    assert_eq!(error.problems().len(), 1, "{error}");

    let (mut file, required) = (
        tempfile::NamedTempFile::new().expect("a temporary file"),
        ("LLAMATOWER_REQUIRE_KEYS", "true"),
    );
    let path = file.path().to_str().expect("a plain path").to_owned();
    let settings = [("LLAMATOWER_KEYS_FILE", &*path), required];
    let digest = DIGEST.strip_prefix("ada=").expect("a name");
    writeln!(file, "[keys.ada]\ndigest = {digest:?}").expect("it can be written");
    load(&settings).expect("valid");
    for wrong in ["oops", "expires = \"soon\""] {
        let (mut file, text) = (
            tempfile::NamedTempFile::new().expect("a temporary file"),
            format!("[keys.ada]\ndigest = {digest:?}\n{wrong}\n"),
        );
        file.write_all(text.as_bytes()).expect("it can be written");
        let path = file.path().to_str().expect("a plain path");
        let error = load(&[("LLAMATOWER_KEYS_FILE", path), required]).expect_err("wrong");
        assert_eq!(error.problems().len(), 1, "{error}");
    }
}

#[test]
fn the_unit_of_a_rate_is_named() {
    for (setting, value, reason) in [
        (
            "LLAMATOWER_RATE_LIMIT",
            "10/minute",
            "what follows the / must be s, m or h",
        ),
        (
            "LLAMATOWER_KEY_TOKEN_LIMIT",
            "10/m",
            "what follows the / must be minute, day or month",
        ),
    ] {
        let error = load(&[(setting, value)]).expect_err("wrong").to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_secret_can_be_a_file_and_is_never_shown() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(file, "hunter2").expect("it can be written");
    let path = file.path().to_str().expect("a plain path").to_owned();
    let loaded = load(&[("GROQ_API_KEY_FILE", &path)]).expect("valid");
    assert_eq!(
        loaded.settings.keys.groq.as_ref().map(Secret::expose),
        Some("hunter2")
    );
    assert!(!format!("{loaded:?}").contains("hunter2"));

    let both = load(&[("GROQ_API_KEY_FILE", &path), ("GROQ_API_KEY", "x")]);
    assert!(
        both.expect_err("two sources")
            .to_string()
            .contains("GROQ_API_KEY_FILE")
    );
    let missing = load(&[("GROQ_API_KEY_FILE", "/no/such/file")])
        .expect_err("no file")
        .to_string();
    assert!(
        missing.contains("GROQ_API_KEY_FILE") && missing.contains("/no/such/file"),
        "{missing}"
    );
}

#[test]
fn an_address_with_a_password_is_refused_and_shown_nowhere() {
    for variable in [
        "OLLAMA_URL",
        "LLAMATOWER_MANAGEMENT_BACKEND",
        "LLAMATOWER_SLOTS",
    ] {
        for password in [
            "http://u:hunter2@gpu",
            "http://u:hunter2,hunter2@gpu",
            "hunter2@gpu=4",
        ] {
            let error = load(&[(variable, password)]).expect_err("a password");
            for told in [error.to_string(), format!("{error:?}")] {
                assert!(!told.contains("hunter2"), "{told}");
                assert!(told.contains("LLAMATOWER_BACKEND_TOKENS"), "{told}");
            }
        }
    }
    for file in [
        "[backends]\nurls = \"http://u:hunter2@gpu\"\n",
        "[backends]\nurls = [\"gpu-1\", \"http://u:hunter2@gpu\"]\n",
        "[backends]\nurls = http://u:hunter2@gpu\n",
        "[keys]\ngroq = hunter2\n",
        "[backends]\ntokens = [\"gpu=hunter2\n",
    ] {
        let error = load_file(file, &[]).expect_err(file).to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_token_is_for_one_of_the_servers_and_is_never_shown() {
    let servers = ("OLLAMA_URL", "gpu-1, https://gpu.example/ollama");
    let tokens = "gpu-1 = basic ada:hunter2, gpu.example:443=hunter2";
    let loaded = load(&[servers, ("LLAMATOWER_BACKEND_TOKENS", tokens)]).expect("valid");
    assert!(!format!("{loaded:?}").contains("hunter2"));
    for (tokens, named) in [
        ("gpu-9=hunter2", "gpu-9 is not a server in OLLAMA_URL"),
        ("gpu-1:1=hunter2", "gpu-1:1 is not a server in OLLAMA_URL"),
        ("gpu-1=a, gpu-1:11434=hunter2", "two tokens for gpu-1:11434"),
        ("gpu-1=digest hunter2", "the token for gpu-1"),
        ("gpu-1=", "item 1 must have the form"),
        ("gpu-1=a, hunter2", "item 2 must have the form"),
        ("hunter2==", "item 1 must have the form"),
        ("basic ada:hunter2=", "item 1 must have the form"),
        ("https://ada:hunter2@gpu-1=a", "item 1 must have the form"),
    ] {
        let error = load(&[servers, ("LLAMATOWER_BACKEND_TOKENS", tokens)]);
        let error = error.expect_err(tokens).to_string();
        assert!(error.contains("LLAMATOWER_BACKEND_TOKENS"), "{error}");
        assert!(error.contains(named), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn servers_are_named_by_their_addresses_or_by_host_and_port() {
    let servers = ("OLLAMA_URL", "gpu-1, https://gpu.example/ollama");
    for name in [
        "https://gpu.example/ollama",
        "gpu.example:443",
        "gpu.example",
    ] {
        let slots = format!("2, {name}=4");
        let loaded = load(&[
            servers,
            ("LLAMATOWER_MANAGEMENT_BACKEND", name),
            ("LLAMATOWER_SLOTS", &slots),
        ]);
        let backends = loaded.expect(name).settings.backends;
        assert_eq!(backends.management_host(), 1);
        let slots = backends.slots_of_each().into_iter();
        assert_eq!(
            slots.map(|rule| rule.to_string()).collect::<Vec<_>>(),
            ["2", "4"]
        );
    }
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_named_with_its_setting() {
    let mut empty = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(empty, "no certificate").expect("it can be written");
    let empty = empty.path().to_str().expect("a plain path");
    for (path, reason) in [
        ("/no/such/file", "cannot be read"),
        (empty, "no certificate"),
    ] {
        let error = load(&[("LLAMATOWER_BACKEND_CA_FILE", path)]);
        let error = error.expect_err(path).to_string();
        assert!(error.contains("LLAMATOWER_BACKEND_CA_FILE"), "{error}");
        assert!(error.contains(path) && error.contains(reason), "{error}");
    }
}

/// The value of a setting; `None` if it is refused.
fn read<T>(variable: &str, text: &str, value: impl Fn(&Settings) -> T) -> Option<T> {
    let loaded = load(&[(variable, text)]);
    loaded.ok().map(|loaded| value(&loaded.settings))
}

#[test]
fn there_are_at_most_1024_threads() {
    let threads = |text| {
        read("LLAMATOWER_WORKER_THREADS", text, |settings| {
            settings.runtime.worker_threads
        })
    };
    assert_eq!(threads("1024"), Some(NonZeroUsize::new(1024)));
    assert_eq!(threads("auto"), Some(None));
    for text in ["0", "1025", "100000"] {
        assert_eq!(threads(text), None, "{text}");
    }
}

#[test]
fn addresses_with_a_space_between_them_need_a_comma() {
    let error = load(&[("OLLAMA_URL", "gpu-1 gpu-2")]).expect_err("no comma");
    assert!(error.to_string().contains("commas"), "{error}");
    load(&[("OLLAMA_URL", "gpu-1, gpu-2")]).expect("valid");
}

#[test]
fn an_error_about_a_relative_path_names_where_it_leads() {
    let here = std::env::current_dir().expect("there is one");
    let expected = here.join("no/such.file").display().to_string();
    for variable in [
        "LLAMATOWER_KEYS_FILE",
        "LLAMATOWER_API_KEYS_FILE",
        "LLAMATOWER_BACKEND_CA_FILE",
        "LLAMATOWER_TLS_CERT",
    ] {
        let key = ("LLAMATOWER_TLS_KEY", "no/such.file");
        let settings = [(variable, "no/such.file"), key];
        let settings = &settings[..1 + usize::from(variable == "LLAMATOWER_TLS_CERT")];
        let error = load(settings).expect_err("there is no such file");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn durations_are_seconds_or_have_units() {
    let read = |text| {
        read("LLAMATOWER_CONNECT_TIMEOUT", text, |settings| {
            settings.timeouts.connect.as_millis()
        })
    };
    for (text, milliseconds) in [
        ("2", 2000),
        ("2s", 2000),
        ("1m30s", 90_000),
        ("250ms", 250),
        ("0.5", 500),
    ] {
        assert_eq!(read(text), Some(milliseconds), "{text}");
    }
    for text in ["0", "soon", "-1", "2 parsecs", "inf", "1e99"] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn sizes_have_units() {
    let limit = |text| {
        read("LLAMATOWER_BODY_LIMIT", text, |settings| {
            settings.limits.body
        })
    };
    for (text, bytes) in [
        ("1048576", 1 << 20),
        ("128MiB", 128 << 20),
        ("1GB", 1_000_000_000),
        ("64k", 64 << 10),
    ] {
        assert_eq!(limit(text), Some(bytes), "{text}");
    }
    for text in ["0", "MiB", "-1", "1TiB", "99999999999GiB"] {
        assert_eq!(limit(text), None, "{text}");
    }
    let share = |text| {
        read("LLAMATOWER_BODY_MEMORY", text, |settings| {
            settings.limits.body_memory
        })
    };
    assert_eq!(share("25%"), Some(SizeOrShare::Share(0.25)));
    assert_eq!((share("0%"), share("101%")), (None, None));
}

#[test]
fn rates_are_requests_in_a_time() {
    let rate = |text| {
        read("LLAMATOWER_RATE_LIMIT", text, |settings| {
            settings.limits.rate
        })
    };
    let requests = 600.try_into().expect("not 0");
    let expected = Quota::new(requests, Duration::from_secs(60)).expect("it is possible");
    assert_eq!(rate("600/m"), Some(Some(expected)));
    assert_eq!(rate("off"), Some(None));
    for text in ["600", "0/s", "5/d", "/s", "x/s"] {
        assert_eq!(rate(text), None, "{text}");
    }
}

#[test]
fn ollama_timeout_is_the_default_of_three_clocks() {
    let loaded = load(&[
        ("OLLAMA_TIMEOUT", "60"),
        ("LLAMATOWER_FIRST_BYTE_TIMEOUT", "600"),
    ])
    .expect("valid");
    assert_eq!(
        loaded.settings.timeouts.first_byte,
        Some(Duration::from_secs(600))
    );
    assert_eq!(loaded.settings.timeouts.idle, Some(Duration::from_secs(60)));
    assert_eq!(loaded.settings.timeouts.total, None);
    let idle = loaded
        .effective
        .iter()
        .find(|row| row.setting.key == "timeouts.idle")
        .expect("reported");
    assert_eq!(
        (idle.value.as_str(), idle.source.as_str()),
        ("1m", "OLLAMA_TIMEOUT")
    );
}

#[test]
fn the_first_state_directory_of_systemd_is_the_default_and_off_is_none() {
    let of_systemd = ("STATE_DIRECTORY", "/var/lib/one:/var/lib/two");
    let directory = |environment: &[(&str, &str)]| {
        let loaded = load(environment).expect("valid");
        let mut rows = loaded.effective.iter();
        let row = rows.find(|row| row.setting.key == "state.directory");
        let source = row.expect("reported").source.clone();
        let directory = loaded.settings.state.directory;
        (directory.map(|path| path.display().to_string()), source)
    };
    for (environment, expected, source) in [
        (&[][..], None, "default"),
        (&[of_systemd], Some("/var/lib/one"), "STATE_DIRECTORY"),
        (
            &[of_systemd, ("LLAMATOWER_STATE_DIR", "/srv/state")],
            Some("/srv/state"),
            "LLAMATOWER_STATE_DIR",
        ),
        (
            &[of_systemd, ("LLAMATOWER_STATE_DIR", "off")],
            None,
            "LLAMATOWER_STATE_DIR",
        ),
    ] {
        let expected = (expected.map(str::to_owned), source.to_owned());
        assert_eq!(directory(environment), expected);
    }
}

#[test]
fn a_load_gets_at_least_the_time_of_other_requests_unless_it_is_set() {
    let (ollama, first_byte, own) = (
        "OLLAMA_TIMEOUT",
        "LLAMATOWER_FIRST_BYTE_TIMEOUT",
        "LLAMATOWER_LOAD_TIMEOUT",
    );
    for (environment, seconds, source) in [
        (&[][..], Some(900), "default"),
        (&[(first_byte, "60")], Some(900), "default"),
        (&[(first_byte, "1800")], Some(1800), first_byte),
        (&[(first_byte, "off")], None, first_byte),
        (&[(ollama, "60")], Some(60), ollama),
        (
            &[(ollama, "60"), (first_byte, "600")],
            Some(600),
            first_byte,
        ),
        (&[(ollama, "60"), (own, "30")], Some(30), own),
        (&[(first_byte, "60"), (own, "off")], None, own),
    ] {
        let loaded = load(environment).expect("valid");
        let time = loaded.settings.timeouts.load.map(|time| time.as_secs());
        let mut rows = loaded.effective.iter();
        let row = rows.find(|row| row.setting.key == "timeouts.load");
        let row = row.expect("every setting is reported");
        assert_eq!((time, &*row.source), (seconds, source), "{environment:?}");
    }
}

#[test]
fn the_predicted_wait_is_limited_to_the_longest_wait_unless_it_is_set() {
    let (wait, own) = (
        "LLAMATOWER_QUEUE_MAX_WAIT",
        "LLAMATOWER_QUEUE_MAX_PREDICTED_WAIT",
    );
    for (environment, seconds, source) in [
        (&[][..], Some(300), "default"),
        (&[(wait, "10s")], Some(10), wait),
        (&[(wait, "10m")], Some(300), "default"),
        (&[(wait, "off")], Some(300), "default"),
        (&[(wait, "10s"), (own, "20s")], Some(20), own),
        (&[(wait, "10s"), (own, "off")], None, own),
    ] {
        let loaded = load(environment).expect("valid");
        let limit = loaded.settings.queue.max_predicted_wait;
        let mut rows = loaded.effective.iter();
        let row = rows.find(|row| row.setting.key == "queue.max_predicted_wait");
        let row = row.expect("every setting is reported");
        let limit = limit.map(|time| time.as_secs());
        assert_eq!((limit, &*row.source), (seconds, source), "{environment:?}");
    }
}

#[test]
fn by_default_a_stream_may_pause_for_minutes_and_management_without_limit() {
    let timeouts = load(&[]).expect("valid").settings.timeouts;
    assert_eq!(timeouts.idle, Some(Duration::from_secs(900)));
    assert_eq!(timeouts.management, None);
    let one_clock = load(&[("OLLAMA_TIMEOUT", "60")]).expect("valid");
    assert_eq!(one_clock.settings.timeouts.management, None);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let loaded = load(&[("OLLAMA_URL", " "), ("LLAMATOWER_LISTEN", "")]).expect("sound");
    assert_eq!(
        loaded.settings.backends.urls[0].to_string(),
        "localhost:11434"
    );
    assert_eq!(
        loaded.settings.listen.public[0].to_string(),
        "127.0.0.1:3000"
    );
}

#[test]
fn a_misspelt_key_or_variable_is_reported_with_the_right_one() {
    let error = load_file("[timeouts]\nconect = 2\n", &[])
        .expect_err("misspelt")
        .to_string();
    assert!(error.contains("timeouts.connect"), "{error}");
    let error = load(&[("LLAMATOWER_LISTN", "x"), ("PATH", "/bin")]).expect_err("misspelt");
    assert_eq!(error.problems().len(), 1, "{error}");
    assert!(error.to_string().contains("LLAMATOWER_LISTEN"), "{error}");
}

#[test]
fn the_reference_in_the_guide_is_up_to_date() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |name: &str| std::fs::read_to_string(format!("{root}/{name}")).unwrap_or_default();
    assert_eq!(
        read("docs/configuration.md"),
        reference(),
        "run: cargo run -- reference > docs/configuration.md"
    );
    assert_eq!(
        read("llamatower.example.toml"),
        example_file(),
        "run: cargo run -- reference --example > llamatower.example.toml"
    );
    assert_eq!(
        read("k8s/base/settings.env"),
        example_environment(),
        "run: cargo run -- reference --environment > k8s/base/settings.env"
    );
}
