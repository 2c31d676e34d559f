//! The commands other than `serve` and `keygen`.

use std::io::Write as _;
use std::os::unix::ffi::OsStringExt;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Gateway, run, tiny, within_limit};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[tokio::test]
async fn the_version_names_the_commit_and_the_build() {
    let exited = run(&["--version"], &[]).await;
    assert_eq!(exited.code, Some(0));
    let told = exited.stdout.trim();
    let rest = told.strip_prefix(&format!("llamatower {VERSION} (commit "));
    let rest = rest.unwrap_or_else(|| panic!("{told}"));
    let (commit, build) = rest.split_once(", ").unwrap();
    assert!(commit == "unknown" || commit.len() >= 7, "{told}");
    assert!(build.contains(std::env::consts::ARCH), "{told}");
}

#[tokio::test]
async fn the_first_line_of_the_log_names_the_version_the_commit_and_the_build() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let first = gateway.first_line();
    assert_eq!(first["version"], VERSION, "{first}");
    assert!(
        first["commit"].is_string() && first["build"].is_string(),
        "{first}"
    );
}

#[tokio::test]
async fn check_prints_json_for_scripts() {
    let digest = format!("ada=sha256:{}", "0".repeat(64));
    let exited = run(&["check", "--json"], &[("LLAMATOWER_API_KEYS", &digest)]).await;
    assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
    let told: Value = serde_json::from_str(&exited.stdout).unwrap();
    assert_eq!(
        (&told["is_sound"], &told["version"]),
        (&Value::Bool(true), &VERSION.into())
    );
    let row = |variable: &str| {
        let mut rows = told["settings"].as_array().unwrap().iter();
        rows.find(|row| row["variable"] == variable)
            .unwrap()
            .clone()
    };
    let idle = row("LLAMATOWER_IDLE_TIMEOUT");
    assert_eq!(
        (&idle["key"], &idle["source"]),
        (&"timeouts.idle".into(), &"default".into())
    );
    let keys = row("LLAMATOWER_API_KEYS");
    assert_eq!(
        (&keys["value"], &keys["is_set"]),
        (&Value::Null, &Value::Bool(true))
    );
    assert_eq!(keys["names"], json!(["ada"]));
    assert_eq!(row("LLAMATOWER_ADMIN_KEYS")["names"], json!([]));
    assert_eq!(row("GROQ_API_KEY")["is_set"], false);
    assert_eq!(row("GROQ_API_KEY")["names"], Value::Null);
    assert_eq!(idle["names"], Value::Null);
    assert!(!exited.stdout.contains("000000"));
}

#[tokio::test]
async fn check_lists_the_names_of_keys_and_of_servers_with_tokens() {
    let digest = "0".repeat(64);
    let keys = format!("ada=sha256:{digest}, ben=sha256:{digest}, sha256:{digest}");
    let admin = format!("# administrators\nops@example.org=sha256:{digest}\n");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(admin.as_bytes()).unwrap();
    let settings = [
        ("LLAMATOWER_API_KEYS", &*keys),
        ("LLAMATOWER_ADMIN_KEYS_FILE", file.path().to_str().unwrap()),
        ("LLAMATOWER_BACKEND_TOKENS", "localhost=hunter2"),
        ("GROQ_API_KEY", "hunter2"),
    ];
    let exited = run(&["check"], &settings).await;
    assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
    for (variable, value) in [
        ("LLAMATOWER_API_KEYS ", "[secret: ada, ben, key-3] "),
        ("LLAMATOWER_ADMIN_KEYS ", "[secret: ops@example.org] "),
        ("LLAMATOWER_BACKEND_TOKENS ", "[secret: localhost] "),
        ("GROQ_API_KEY ", "[secret] "),
    ] {
        let mut lines = exited.stdout.lines();
        let line = lines.find(|line| line.starts_with(variable)).unwrap();
        assert!(line.contains(value), "{line}");
    }
    for secret in ["000000", "hunter2"] {
        assert!(!exited.stdout.contains(secret), "{}", exited.stdout);
    }
}

#[tokio::test]
async fn check_shows_the_port_of_each_server() {
    let settings = [("OLLAMA_URL", "gpu-1, https://gpu-2, http://gpu-3:9000")];
    let exited = run(&["check"], &settings).await;
    let mut lines = exited.stdout.lines();
    let line = lines.find(|line| line.starts_with("OLLAMA_URL ")).unwrap();
    let shown = "gpu-1 (port 11434), https://gpu-2 (port 443), http://gpu-3:9000 ";
    assert!(line.contains(shown), "{line}");
}

#[tokio::test]
async fn the_demo_shows_its_commands_only_if_it_can_listen() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exited = run(&["demo"], &[("LLAMATOWER_LISTEN", &address)]).await;
    assert!(exited.stderr.contains("cannot listen"), "{}", exited.stderr);
    assert!(!exited.stdout.contains("curl"), "{}", exited.stdout);
}

#[tokio::test]
async fn a_command_is_silent_if_nobody_reads_its_output() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_llamatower"));
    let usage = ["usage", "--json", "--admin-url", &gateway.admin_url()];
    let command = command.args(usage).env_clear().stdout(writer);
    let child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = within_limit("the end of the command", child.wait_with_output()).await;
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test]
async fn the_address_of_the_other_listener_is_told_and_a_scheme_is_not_needed() {
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &[]).await;
    let clients = gateway.url("");
    let admin = gateway.admin_url();
    for (arguments, setting) in [
        (
            &["usage", "--admin-url", &clients][..],
            "LLAMATOWER_ADMIN_LISTEN",
        ),
        (
            &["models", "list", "--admin-url", &clients],
            "LLAMATOWER_ADMIN_LISTEN",
        ),
        (
            &["check", "--diff", "--admin-url", &clients],
            "LLAMATOWER_ADMIN_LISTEN",
        ),
        (
            &["models", "pull", "new", "--url", &admin],
            "LLAMATOWER_LISTEN",
        ),
    ] {
        let exited = run(arguments, &[]).await;
        assert_eq!(exited.code, Some(1), "{arguments:?}");
        let expected = format!("give that of {setting} with --");
        assert!(exited.stderr.contains(&expected), "{}", exited.stderr);
    }
    let address = admin.trim_start_matches("http://");
    let exited = run(&["usage", "--admin-url", address], &[]).await;
    assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
}

#[tokio::test]
async fn a_wrong_day_or_group_of_the_usage_is_told_without_a_gateway() {
    for (arguments, named) in [
        (["--from", "yesterday"], "a day like 2026-11-30"),
        (["--by", "week"], "week"),
    ] {
        let exited = run(&[&["usage"], &arguments[..]].concat(), &[]).await;
        assert_eq!(exited.code, Some(2), "{}", exited.stderr);
        assert!(exited.stderr.contains(named), "{}", exited.stderr);
    }
}

#[tokio::test]
async fn a_refusal_of_management_names_the_command_that_makes_the_key() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[]).await;
    for (path, about) in [("/api/pull", "managing models"), ("/api/me", "account")] {
        let refused = gateway.post(path, &json!({"model": "new"})).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
        for text in [
            about,
            "LLAMATOWER_ADMIN_KEYS",
            "llamatower keygen NAME --admin",
        ] {
            assert!(refused.text.contains(text), "{}", refused.text);
        }
    }
}

#[tokio::test]
async fn check_prints_warnings_after_the_table() {
    let mut command = tokio::process::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_llamatower");
    let both = command.args(["-c", "exec \"$0\" check 2>&1", program]);
    let output = both.env_clear().env("LLAMATOWER_MAX_IN_FLIGHT", "10");
    let output = output.output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("llamatower: warning: LLAMATOWER_MAX_IN_FLIGHT"),
        "{text}"
    );
}

#[tokio::test]
async fn check_prints_warnings_of_settings_and_of_the_exporter() {
    let doubtful = [
        ("LLAMATOWER_MAX_IN_FLIGHT", "10"),
        ("OTEL_TRACES_SAMPLER_ARG", "7"),
    ];
    let exited = run(&["check", "--json"], &doubtful).await;
    let told: Value = serde_json::from_str(&exited.stdout).unwrap();
    let warnings = told["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert_eq!(warnings[0]["subject"], "LLAMATOWER_MAX_IN_FLIGHT");
    assert!(
        warnings[1]["reason"]
            .to_string()
            .contains("OTEL_TRACES_SAMPLER_ARG")
    );
    let exited = run(&["check"], &doubtful).await;
    assert_eq!(exited.stderr.lines().count(), 2, "{}", exited.stderr);
}

#[tokio::test]
async fn check_prints_errors_as_json_and_exits_with_2() {
    let wrong = [
        ("LLAMATOWER_API_KEY", "x"),
        ("LLAMATOWER_IDLE_TIMEOUT", "soon"),
    ];
    let exited = run(&["check", "--json"], &wrong).await;
    assert_eq!((exited.code, &*exited.stderr), (Some(2), ""));
    let told: Value = serde_json::from_str(&exited.stdout).unwrap();
    assert_eq!(told["is_sound"], false);
    let subjects = told["errors"].as_array().unwrap().iter();
    let subjects: Vec<_> = subjects.map(|error| error["subject"].clone()).collect();
    assert_eq!(subjects, ["LLAMATOWER_IDLE_TIMEOUT", "LLAMATOWER_API_KEY"]);
}

#[tokio::test]
async fn an_open_listener_is_a_warning_in_check_and_in_the_log() {
    let open = ("LLAMATOWER_LISTEN", "0.0.0.0:0");
    let exited = run(&["check"], &[open]).await;
    assert_eq!(exited.code, Some(0));
    assert!(
        exited.stderr.contains("LLAMATOWER_API_KEYS"),
        "{}",
        exited.stderr
    );
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[open]).await;
    let is_it = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains("LLAMATOWER_API_KEYS")
    };
    gateway
        .logged("a warning of the open listener", is_it)
        .await;
}

#[tokio::test]
async fn missing_required_keys_end_the_program_with_2_before_it_listens() {
    let exited = run(&[], &[("LLAMATOWER_REQUIRE_KEYS", "true")]).await;
    assert_eq!(exited.code, Some(2));
    assert!(
        exited.stderr.contains("LLAMATOWER_REQUIRE_KEYS"),
        "{}",
        exited.stderr
    );
    assert_eq!(exited.stdout, "");
}

#[tokio::test]
async fn a_blank_list_of_keys_ends_the_program_with_2_before_it_listens() {
    for variable in ["LLAMATOWER_API_KEYS", "LLAMATOWER_API_KEYS_FILE"] {
        let exited = run(&[], &[(variable, "  ")]).await;
        assert_eq!(exited.code, Some(2));
        assert!(exited.stderr.contains(variable), "{}", exited.stderr);
        assert_eq!(exited.stdout, "");
    }
}

#[tokio::test]
async fn a_blank_variable_of_the_file_counts_as_not_set_for_every_command() {
    for blank in ["", "  "] {
        let blank = [("LLAMATOWER_CONFIG", blank)];
        for arguments in [&["check"][..], &["keygen"], &["reference"], &["sleep", "0"]] {
            let exited = run(arguments, &blank).await;
            assert_eq!(
                (exited.code, &*exited.stderr),
                (Some(0), ""),
                "{arguments:?}"
            );
        }
        let sim = tiny().await;
        Gateway::start(&[&sim], &blank).await;
    }
    let exited = run(&["check", "--config="], &[]).await;
    assert_eq!(exited.code, Some(2), "{}", exited.stdout);
}

#[tokio::test]
async fn the_variable_names_the_file_and_the_option_wins() {
    let missing = [("LLAMATOWER_CONFIG", "/no/such/file")];
    let exited = run(&["check"], &missing).await;
    assert_eq!(exited.code, Some(2));
    assert!(exited.stderr.contains("/no/such/file"), "{}", exited.stderr);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for arguments in [["check", "--config", path], ["--config", path, "check"]] {
        let exited = run(&arguments, &missing).await;
        assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
    }
}

#[tokio::test]
async fn keys_that_are_not_utf8_end_the_program_with_2() {
    let garbled = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    let program = env!("CARGO_BIN_EXE_llamatower");
    let exited = tokio::process::Command::new(program)
        .env_clear()
        .env("LLAMATOWER_API_KEYS", garbled)
        .arg("check")
        .output()
        .await
        .unwrap();
    assert_eq!(exited.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&exited.stderr);
    assert!(stderr.contains("LLAMATOWER_API_KEYS"), "{stderr}");
}

#[tokio::test]
async fn healthcheck_uses_the_first_address_of_the_setting() {
    let sim = tiny().await;
    let gateway = Gateway::start(&[&sim], &[("LLAMATOWER_LISTEN", "0.0.0.0:0")]).await;
    let port = gateway.socket_address().port();
    for listen in [
        format!("0.0.0.0:{port}"),
        format!("127.0.0.1:{port},[::1]:1"),
    ] {
        let exited = run(&["healthcheck"], &[("LLAMATOWER_LISTEN", &listen)]).await;
        assert_eq!((exited.code, &*exited.stderr), (Some(0), ""), "{listen}");
    }
    // It ignores errors in other settings.
    let wrong = [
        ("LLAMATOWER_LISTEN", &*format!("0.0.0.0:{port}")),
        ("LLAMATOWER_IDLE_TIMEOUT", "soon"),
    ];
    assert_eq!(run(&["healthcheck"], &wrong).await.code, Some(0));
    let given = format!("http://127.0.0.1:{port}/health");
    assert_eq!(run(&["healthcheck", &given], &[]).await.code, Some(0));
}

#[tokio::test]
async fn healthcheck_uses_a_unix_socket_if_there_is_no_other_address() {
    let sim = tiny().await;
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}/gateway.sock", folder.path().display());
    let both = format!("127.0.0.1:0,{listen}");
    let _gateway = Gateway::start(&[&sim], &[("LLAMATOWER_LISTEN", &both)]).await;
    let exited = run(&["healthcheck"], &[("LLAMATOWER_LISTEN", &listen)]).await;
    assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
}

#[tokio::test]
async fn a_gateway_that_does_not_respond_is_unhealthy() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let exited = run(&["healthcheck"], &[("LLAMATOWER_LISTEN", &address)]).await;
    assert_eq!(exited.code, Some(1));
    assert!(exited.stderr.contains(&address), "{}", exited.stderr);
    assert!(exited.stderr.contains("gateway"), "{}", exited.stderr);
    assert!(!exited.stderr.contains("backend"), "{}", exited.stderr);
    let sim = tiny().await;
    let exited = run(&["healthcheck", &format!("{}/none", sim.url())], &[]).await;
    assert_eq!(exited.code, Some(1));
    assert!(exited.stderr.contains("404"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_command_does_not_wait_for_ever_for_a_gateway_that_hangs() {
    // It accepts connections, as the system does for a stopped process, and sends nothing.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let commands = [
        &["usage"][..],
        &["cordon", "gpu-1"],
        &["uncordon", "gpu-1"],
        &["drain", "gpu-1"],
        &["models", "list"],
        &["check", "--diff"],
    ];
    let url = &*url;
    let all = commands.map(|command| async move {
        let arguments = [command, &["--admin-url", url]].concat();
        run(&arguments, &[]).await
    });
    for exited in join_all(all).await {
        assert_eq!(exited.code, Some(1), "{}", exited.stderr);
        let reason = format!("no response from the gateway at {url}: it did not answer within");
        assert!(exited.stderr.contains(&reason), "{}", exited.stderr);
    }
}

#[tokio::test]
async fn a_comparison_that_reaches_no_gateway_tells_where_its_address_is_from() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let new = [("LLAMATOWER_ADMIN_LISTEN", &*address)];
    let exited = run(&["check", "--diff"], &new).await;
    assert_eq!(exited.code, Some(1));
    for part in [&*address, "of the settings to be checked", "--admin-url"] {
        assert!(exited.stderr.contains(part), "{}", exited.stderr);
    }
    let given = ["check", "--diff", "--admin-url", &address];
    let exited = run(&given, &new).await;
    assert!(
        !exited.stderr.contains("to be checked"),
        "{}",
        exited.stderr
    );
}

/// The commands of `--help`, and `help` is none of the program's own.
async fn commands() -> Vec<String> {
    let help = run(&["--help"], &[]).await.stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let rows = list.lines().take_while(|line| !line.is_empty());
    let names = rows.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let exited = run(&["man", pages.to_str().unwrap()], &[]).await;
    assert_eq!((exited.code, &*exited.stderr), (Some(0), ""));
    let commands = commands().await;
    assert!(commands.contains(&"doctor".to_owned()), "{commands:?}");
    for command in commands {
        let page = pages.join(format!("llamatower-{command}.1"));
        let page =
            std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
    }
    let main = std::fs::read_to_string(pages.join("llamatower.1")).unwrap();
    assert_eq!(run(&["man"], &[]).await.stdout, main);
    assert!(
        main.contains(VERSION) && !main.contains("commit"),
        "the same for each build"
    );
    assert!(main.contains("LLAMATOWER_CONFIG"), "{main}");
}

#[tokio::test]
async fn a_directory_for_pages_that_cannot_be_made_is_named() {
    let exited = run(&["man", "/dev/null/man1"], &[]).await;
    assert_eq!(exited.code, Some(1));
    assert!(
        exited.stderr.contains("/dev/null/man1"),
        "{}",
        exited.stderr
    );
}

#[tokio::test]
async fn shells_complete_every_command() {
    let commands = commands().await;
    for shell in ["bash", "zsh", "fish"] {
        let exited = run(&["completions", shell], &[]).await;
        assert_eq!((exited.code, &*exited.stderr), (Some(0), ""), "{shell}");
        for command in &commands {
            assert!(
                exited.stdout.contains(command.as_str()),
                "{shell}: {command}"
            );
        }
    }
    let unknown = run(&["completions", "cmd.exe"], &[]).await;
    assert_eq!(unknown.code, Some(2));
}
