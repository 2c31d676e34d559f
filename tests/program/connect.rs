//! `llamatower connect`: an Ollama on this machine that is a gateway elsewhere.

use std::process::Stdio;
use std::sync::Arc;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::SimHandle;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::harness::{Answer, Gateway, chat, long_stream, run, send, tiny, within_limit};

/// A running `llamatower connect`; dropping it kills the process.
struct Connect {
    _child: Child,
    address: String,
    greeting: Vec<String>,
}

impl Connect {
    async fn start(url: &str, key: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_llamatower"))
            .args(["connect", url, "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env_clear()
            .env("LLAMATOWER_KEY", key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut greeting = Vec::new();
        within_limit("the greeting", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                greeting.push(line);
                if greeting
                    .last()
                    .is_some_and(|line| line.starts_with("Ctrl-C"))
                {
                    break;
                }
            }
        })
        .await;
        let first = greeting.first().expect("a greeting");
        let address = first.strip_prefix("listening on ").unwrap();
        let address = address.split_once(',').unwrap().0.to_owned();
        Self {
            _child: child,
            address,
            greeting,
        }
    }

    fn request(&self, path: &str) -> reqwest::RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(format!("http://{}{path}", self.address))
    }

    async fn post(&self, path: &str) -> Answer {
        send(self.request(path).json(&chat())).await
    }
}

/// A gateway with the keys of a user and of an administrator.
struct Keyed {
    gateway: Gateway,
    user: String,
    admin: String,
}

async fn keyed(sim: &SimHandle) -> Keyed {
    let (user, line) = generate_key("ada").unwrap();
    let (admin, admin_line) = generate_key("root").unwrap();
    let settings = [
        ("LLAMATOWER_API_KEYS", &*line),
        ("LLAMATOWER_ADMIN_KEYS", &*admin_line),
    ];
    Keyed {
        gateway: Gateway::start_up(&[sim], &settings).await,
        user,
        admin,
    }
}

#[tokio::test]
async fn requests_get_the_key_and_answers_come_line_by_line() {
    let sim = long_stream().await;
    let keyed = keyed(&sim).await;
    let connect = Connect::start(&keyed.gateway.url(""), &keyed.user, &[]).await;
    let greeting = connect.greeting.join("\n");
    assert!(
        greeting.contains("tiny") && !greeting.contains("pull"),
        "{greeting}"
    );
    assert!(!greeting.contains(&keyed.user), "{greeting}");

    // A placeholder, as some clients must send one, is replaced.
    let request = connect.request("/api/chat").bearer_auth("ollama");
    let mut answer = request.json(&chat()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let line = within_limit("the first line", answer.chunk())
        .await
        .unwrap();
    let line: serde_json::Value = serde_json::from_slice(&line.unwrap()).unwrap();
    assert_eq!(line["done"], false, "the stream has 1000 lines");
    drop(answer);
    let line = keyed
        .gateway
        .logged("the cancelled request", |line| {
            line["ending"] == "cancelled"
        })
        .await;
    assert_eq!(line["identity"], "ada");
}

#[tokio::test]
async fn an_alias_is_named_as_the_operator_wrote_it() {
    let sim = tiny().await;
    let (user, line) = generate_key("ada").unwrap();
    let settings = [
        ("LLAMATOWER_API_KEYS", &*line),
        ("LLAMATOWER_ALIASES", "gpt=tiny"),
        ("LLAMATOWER_LIST_ALIASES", "true"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let connect = Connect::start(&gateway.url(""), &user, &[]).await;
    let line = connect
        .greeting
        .iter()
        .find(|line| line.contains("may run"));
    let names = line.unwrap().split_once(": ").unwrap().1;
    let mut names: Vec<_> = names.split(", ").collect();
    names.sort_unstable();
    assert_eq!(names, ["gpt", "tiny:latest"]);
}

#[tokio::test]
async fn an_encoded_name_in_a_path_reaches_the_gateway() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let connect = Connect::start(&keyed.gateway.url(""), &keyed.user, &[]).await;
    for (path, status) in [
        ("/v1/models/tiny%3Alatest", 200),
        ("/v1/models/tiny%3Alatest?a=b", 200),
        ("/v1/models/none%3Alatest", 404),
        ("/v1/models/a%2f..%2f..%2fapi%2ftags", 400),
        ("/api/t%61gs", 400),
    ] {
        let page = format!("http://{}{path}", connect.address);
        let answer = send(reqwest::Client::new().get(page)).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_greeting_tells_what_the_key_may_do() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", keyed.admin)).unwrap();
    let arguments = ["--key-file", file.path().to_str().unwrap()];
    let connect = Connect::start(&keyed.gateway.url(""), "", &arguments).await;
    let greeting = connect.greeting.join("\n");
    assert!(greeting.contains("pull"), "{greeting}");
    assert!(
        greeting.contains(&format!("OLLAMA_HOST={}", connect.address)),
        "{greeting}"
    );
    assert_eq!(connect.post("/v1/chat/completions").await.status, 200);
}

#[tokio::test]
async fn web_pages_cannot_use_the_key() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let page = ["--origin", "https://chat.example"];
    let connect = Connect::start(&keyed.gateway.url(""), &keyed.user, &page).await;
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("host", "evil.example:11434", 403),
        ("origin", "null", 403),
        ("origin", "https://chat.example", 200),
        ("origin", "http://localhost:8080", 200),
        ("host", "localhost:11434", 200),
    ] {
        let request = connect.request("/api/chat").json(&chat());
        let answer = send(request.header(header, value)).await;
        assert_eq!(answer.status, status, "{header}: {value}: {}", answer.text);
    }
    let requests = sim.requests();
    let asked = requests.iter().filter(|seen| seen.path() == "/api/chat");
    assert_eq!(asked.count(), 3, "the refused requests reached nobody");
    let preflight = reqwest::Client::new()
        .request(
            reqwest::Method::OPTIONS,
            format!("http://{}/api/chat", connect.address),
        )
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST");
    let answer = send(preflight).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn an_unusable_key_gateway_or_address_is_told_at_the_start() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let url = keyed.gateway.url("");
    let of_openai = keyed.gateway.url("/v1");
    let connect = async |arguments: &[&str], key: &str| {
        let mut all = vec!["connect"];
        all.extend(arguments);
        run(&all, &[("LLAMATOWER_KEY", key)]).await
    };
    let free = ["--listen", "127.0.0.1:0"];
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = format!("http://{nobody}");
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let held_address = held.local_addr().unwrap().to_string();
    for (arguments, key, code, named) in [
        (
            vec![&*url, free[0], free[1]],
            "llt_wrong",
            1,
            "refuses the key",
        ),
        (vec![&*url, free[0], free[1]], "", 1, "--key-file"),
        (
            vec![&*nobody, free[0], free[1]],
            &*keyed.user,
            1,
            "cannot be reached",
        ),
        (
            vec![&*url, "--listen", "0.0.0.0:0"],
            &*keyed.user,
            2,
            "--listen",
        ),
        (
            vec![&*url, "--listen", &*held_address],
            &*keyed.user,
            3,
            &*held_address,
        ),
        (
            vec![&*url, free[0], free[1], "--origin", "*"],
            &*keyed.user,
            2,
            "--origin",
        ),
        (
            vec!["http://localhost:11434"],
            &*keyed.user,
            2,
            "address to listen on",
        ),
        (
            vec![&*url, free[0], free[1], "--ca", "/nowhere"],
            &*keyed.user,
            2,
            "/nowhere",
        ),
        (vec!["ftp://gateway"], &*keyed.user, 2, "http"),
        (
            vec![&*of_openai, free[0], free[1]],
            &*keyed.user,
            1,
            "without /v1 at its end",
        ),
    ] {
        let ended = connect(&arguments, key).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.stderr);
        assert!(
            ended.stderr.contains(named),
            "{arguments:?}: {}",
            ended.stderr
        );
        assert!(!ended.stderr.contains("llt_"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_told_in_the_dialect_of_the_request() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let connect = Connect::start(&keyed.gateway.url(""), &keyed.user, &[]).await;
    let Keyed { mut gateway, .. } = keyed;
    gateway.signal("KILL").await;
    gateway.ended().await;
    let answer = connect.post("/api/chat").await;
    assert_eq!(answer.status, 502);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("the gateway at http://"), "{error}");
    let answer = connect.post("/v1/chat/completions").await;
    assert!(
        answer.json()["error"]["message"].is_string(),
        "{}",
        answer.text
    );
    let path = connect.request("/api/../secret%2f").body("{}");
    assert!([400, 404].contains(&send(path).await.status));
}

/// Serves a gateway over TLS, below no path, with a certificate of its own for `localhost`.
async fn with_tls(gateway: &Gateway) -> (String, NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let target = gateway.socket_address();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut gateway = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut gateway).await;
            });
        }
    });
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    (url, file)
}

#[tokio::test]
async fn the_certificate_of_an_https_gateway_is_verified() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let (url, certificate) = with_tls(&keyed.gateway).await;
    let ca = certificate.path().to_str().unwrap();
    let connect = Connect::start(&url, &keyed.user, &["--ca", ca]).await;
    let answer = connect.post("/api/chat").await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    let without = ["connect", &url, "--listen", "127.0.0.1:0"];
    let ended = run(&without, &[("LLAMATOWER_KEY", &keyed.user)]).await;
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("--ca"), "{}", ended.stderr);
}

#[tokio::test]
async fn management_needs_a_key_that_may_manage() {
    let sim = tiny().await;
    let keyed = keyed(&sim).await;
    let url = keyed.gateway.url("");
    for (key, status) in [(&keyed.user, 403), (&keyed.admin, 200)] {
        let connect = Connect::start(&url, key, &[]).await;
        let copy = connect.request("/api/copy");
        let copy = copy.json(&json!({"source": "tiny", "destination": "copied"}));
        assert_eq!(send(copy).await.status, status);
    }
}
