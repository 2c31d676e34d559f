//! The gateway with TLS: its commands, identities, status and metrics.

use std::path::Path;

use llamatower_layers::api_key::generate_key;
use llamatower_sim::SimHandle;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};

use crate::harness::{Gateway, chat, free_port, long_stream, run, send, tiny, until, within_limit};

/// A directory with the files of TLS, signed by its authority.
struct Files {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    authority: String,
}

impl Files {
    fn new() -> Self {
        let mut params = named("the authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
            issuer: Issuer::new(params, key),
            authority,
        };
        files.write("ca.crt", &files.authority);
        files.renew();
        files
    }

    /// A certificate and its key.
    fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        (cert, key.serialize_pem())
    }

    /// Writes a new certificate of the server.
    fn renew(&self) {
        let mut params = CertificateParams::new(["gateway.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2040, 5, 6);
        let (cert, key) = self.sign(&params);
        self.write("tls.crt", &cert);
        self.write("tls.key", &key);
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, path).unwrap();
    }

    fn path(&self, name: &str) -> String {
        let path: &Path = self.directory.path();
        path.join(name).to_str().unwrap().to_owned()
    }

    /// A client that trusts the authority, perhaps with a certificate of its own.
    fn client(&self, name: Option<&str>) -> reqwest::ClientBuilder {
        let authority = reqwest::Certificate::from_pem(self.authority.as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([authority]);
        match name {
            None => client,
            Some(name) => {
                let (cert, key) = self.sign(&named(name));
                let identity = reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes());
                client.identity(identity.unwrap())
            }
        }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A gateway that speaks TLS, with these settings.
async fn gateway(sim: &SimHandle, files: &Files, more: &[(&str, &str)]) -> Gateway {
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let mut settings = vec![
        ("LLAMATOWER_TLS_CERT", &*cert),
        ("LLAMATOWER_TLS_KEY", &*key),
        ("LLAMATOWER_ALLOWED_HOSTS", "gateway.example"),
    ];
    settings.extend(more);
    Gateway::start_up(&[sim], &settings).await
}

/// The client, and a URL that it verifies.
fn at(gateway: &Gateway, client: reqwest::ClientBuilder) -> (reqwest::Client, String) {
    let address = gateway.socket_address();
    let client = client.resolve("gateway.example", address).build().unwrap();
    (
        client,
        format!("https://gateway.example:{}", address.port()),
    )
}

#[tokio::test]
async fn commands_reach_a_gateway_with_tls() {
    let (sim, files) = (tiny().await, Files::new());
    let all = [("LLAMATOWER_TLS_LISTENERS", "public, admin")];
    let gateway = gateway(&sim, &files, &all).await;
    let cert = files.path("tls.crt");
    let key = files.path("tls.key");
    let listen = gateway.socket_address().to_string();
    let admin = gateway.admin_url();
    let admin = admin.strip_prefix("http://").unwrap();
    let known = [
        ("LLAMATOWER_LISTEN", &*listen),
        ("LLAMATOWER_ADMIN_LISTEN", admin),
        ("LLAMATOWER_TLS_CERT", &cert),
        ("LLAMATOWER_TLS_KEY", &key),
        all[0],
    ];
    let sims = sim.url();
    let known_doctor: Vec<_> = [&known[..], &[("OLLAMA_URL", &*sims)]].concat();
    for arguments in [
        &["healthcheck"][..],
        &["models", "list"],
        &["usage"],
        &["cordon", &sim.addr().to_string()],
        &["uncordon", &sim.addr().to_string()],
    ] {
        let exited = run(arguments, &known).await;
        assert_eq!(exited.code, Some(0), "{arguments:?}: {}", exited.stderr);
    }
    let doctor = run(&["doctor"], &known_doctor).await;
    assert!(
        doctor.stdout.contains("a gateway serves here"),
        "{}",
        doctor.stdout
    );
    assert!(
        doctor.stdout.contains(&format!("https://{listen}")),
        "{}",
        doctor.stdout
    );

    // By an address, the certificate is verified.
    let url = format!("https://{listen}/health");
    assert_eq!(run(&["healthcheck", &url], &known).await.code, Some(0));
    let unknown = run(&["healthcheck", &url], &[]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("certificate"), "{}", unknown.stderr);
    let admin_url = format!("https://{admin}");
    let unknown = run(&["usage", "--admin-url", &admin_url], &[]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("certificate"), "{}", unknown.stderr);

    // A certificate that was renewed badly does not make a gateway unhealthy.
    files.write("tls.crt", "broken");
    let health = run(&["healthcheck"], &known).await;
    assert_eq!(health.code, Some(0), "{}", health.stderr);
}

#[tokio::test]
async fn a_certificate_has_the_limits_of_the_key_with_its_name() {
    let (sim, files) = (tiny().await, Files::new());
    let (_, ada) = generate_key("ada").unwrap();
    let (ben_key, ben) = generate_key("ben").unwrap();
    let ca = files.path("ca.crt");
    let gateway = gateway(
        &sim,
        &files,
        &[
            ("LLAMATOWER_API_KEYS", &format!("{ada},{ben}")),
            ("LLAMATOWER_KEY_LIMITS", "ada:rate=1/h"),
            ("LLAMATOWER_KEY_MODELS", "ben=other"),
            ("LLAMATOWER_TLS_CLIENT_CA", &ca),
            ("LLAMATOWER_TLS_CLIENT_CERTS", "optional"),
        ],
    )
    .await;
    let ask = async |name: Option<&str>, key: Option<&str>| {
        let (client, url) = at(&gateway, files.client(name));
        let mut request = client.post(format!("{url}/api/chat")).json(&chat());
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        send(request).await
    };
    assert_eq!(ask(Some("ada"), None).await.status, 200);
    let line = gateway.access_line("/api/chat").await;
    assert!(line.to_string().contains("ada"), "{line}");
    assert_eq!(ask(Some("ada"), None).await.status, 429);
    // A placeholder, as libraries need it, changes nothing.
    assert_eq!(ask(Some("ada"), Some("none")).await.status, 429);
    // A key comes first: ben may not use this model.
    assert_eq!(ask(Some("ada"), Some(&ben_key)).await.status, 403);
    assert_eq!(ask(None, None).await.status, 401);
    assert_eq!(ask(Some("eve"), None).await.status, 401);
    let requests = gateway
        .sample("llamatower_key_requests_total", &["\"ada\""])
        .await;
    assert!(
        requests.is_some_and(|requests| requests >= 1.0),
        "{requests:?}"
    );
}

#[tokio::test]
async fn status_and_metrics_tell_the_certificate_and_its_changes() {
    let (sim, files) = (tiny().await, Files::new());
    let gateway = gateway(&sim, &files, &[]).await;
    let tls = async || gateway.admin_page("/status").await.json()["gateway"]["tls"].clone();
    assert_eq!(tls().await["expires_at"], "2040-05-06T00:00:00Z");
    assert_eq!(tls().await["changed_at"], Value::Null);
    let expiry = gateway
        .metric("llamatower_tls_certificate_expiry_seconds")
        .await;
    assert_eq!(expiry, 2_219_875_200.0);
    let count = async |result| {
        let name = "llamatower_tls_reloads_total";
        gateway.sample(name, &[result]).await
    };
    assert_eq!(count("\"applied\"").await, Some(0.0));
    assert_eq!(count("\"failed\"").await, Some(0.0));

    files.renew();
    let applied =
        |line: &Value| line["message"] == "the files for TLS have changed and are in force";
    gateway.logged("the change", applied).await;
    assert_ne!(tls().await["changed_at"], Value::Null);
    assert_eq!(tls().await["error"], Value::Null);

    files.write("tls.key", "broken");
    let failed = "the files for TLS have changed and cannot be used; the old ones stay in force";
    let line = gateway
        .logged("the error", |line| line["message"] == failed)
        .await;
    assert_eq!(line["level"], "ERROR");
    let error = tls().await["error"].clone();
    assert!(error.to_string().contains("LLAMATOWER_TLS_KEY"), "{error}");
    assert_eq!(count("\"applied\"").await, Some(1.0));
    assert_eq!(count("\"failed\"").await, Some(1.0));
    let (client, url) = at(&gateway, files.client(None));
    assert_eq!(
        send(client.get(format!("{url}/api/version"))).await.status,
        200
    );
    // Plain HTTP and a failed handshake are counted.
    assert_eq!(send(gateway.get("/")).await.status, 400);
    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(
        stranger
            .get(format!("https://{}", gateway.socket_address()))
            .send()
            .await
            .is_err()
    );
    until("the count of handshakes", async || {
        let name = "llamatower_tls_handshakes_failed_total";
        gateway.sample(name, &["\"clients\""]).await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn metrics_have_the_scheme_of_each_request() {
    let (sim, files) = (tiny().await, Files::new());
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let tls = format!("127.0.0.1:{}", free_port());
    let listen = format!("{tls},127.0.0.1:0");
    let settings = [
        ("LLAMATOWER_LISTEN", &*listen),
        ("LLAMATOWER_TLS_LISTENERS", &tls),
        ("LLAMATOWER_TLS_CERT", &cert),
        ("LLAMATOWER_TLS_KEY", &key),
        ("LLAMATOWER_ALLOWED_HOSTS", "gateway.example"),
    ];
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    let is_plain = |line: &Value| {
        line["message"] == "listening" && line["for"] == "clients" && line["tls"].is_null()
    };
    let line = gateway.logged("the address without TLS", is_plain).await;
    let plain = format!("http://{}", line["address"].as_str().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let of = async |scheme: &str, route: &str| {
        let name = "http_server_request_duration_seconds_count";
        let labels = [
            &*format!("url_scheme=\"{scheme}\""),
            &*format!("http_route=\"{route}\""),
        ];
        gateway.sample(name, &labels).await
    };
    assert_eq!(
        send(client.get(format!("{plain}/api/tags"))).await.status,
        200
    );
    gateway.access_line("/api/tags").await;
    assert_eq!(of("http", "/api/tags").await, Some(1.0));
    assert_eq!(of("https", "/api/tags").await, None);
    let (client, url) = at(&gateway, files.client(None));
    assert_eq!(
        send(client.get(format!("{url}/api/version"))).await.status,
        200
    );
    gateway.access_line("/api/version").await;
    assert_eq!(of("https", "/api/version").await, Some(1.0));
    assert_eq!(of("http", "/api/version").await, None);
    for scheme in ["url_scheme=\"http\"", "url_scheme=\"https\""] {
        let labels = [scheme, "http_request_method=\"GET\""];
        let active = gateway.sample("http_server_active_requests", &labels);
        assert_eq!(active.await, Some(0.0), "{scheme}");
    }
}

#[tokio::test]
async fn the_program_does_not_start_with_files_that_cannot_be_used() {
    let files = Files::new();
    let (cert, ca) = (files.path("tls.crt"), files.path("ca.crt"));
    for key in [&*ca, "/none/at/all"] {
        let settings = [("LLAMATOWER_TLS_CERT", &*cert), ("LLAMATOWER_TLS_KEY", key)];
        let exited = run(&["serve"], &settings).await;
        assert_eq!(exited.code, Some(2));
        assert!(
            exited.stderr.contains("LLAMATOWER_TLS_KEY"),
            "{}",
            exited.stderr
        );
    }
}

#[tokio::test]
async fn a_reset_in_http_2_cancels_the_request_of_the_backend() {
    let (sim, files) = (long_stream().await, Files::new());
    let gateway = gateway(&sim, &files, &[]).await;
    let (client, url) = at(&gateway, files.client(None));
    let request = || client.post(format!("{url}/api/chat")).json(&chat());
    let mut other = request().send().await.unwrap();
    assert_eq!(
        (other.status(), other.version()),
        (reqwest::StatusCode::OK, reqwest::Version::HTTP_2)
    );
    let mut cancelled = request().send().await.unwrap();
    cancelled.chunk().await.unwrap().unwrap();
    drop(cancelled);
    let done = sim.wait_for(|state| state.cancelled == 1);
    within_limit("the cancellation", done).await;
    // The other stream of the connection goes on.
    let line = other.chunk().await.unwrap().unwrap();
    assert!(line.starts_with(b"{"));
    let connections = gateway.sample("llamatower_connections", &["\"clients\""]);
    assert_eq!(connections.await, Some(1.0));
}

#[tokio::test]
async fn the_reason_why_a_clients_certificate_was_refused_is_logged() {
    let (sim, files, others) = (tiny().await, Files::new(), Files::new());
    let ca = files.path("ca.crt");
    let gateway = gateway(&sim, &files, &[("LLAMATOWER_TLS_CLIENT_CA", &ca)]).await;
    let (cert, key) = others.sign(&named("stranger"));
    let identity = reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap();
    let (client, url) = at(&gateway, files.client(None).identity(identity));
    assert!(client.get(format!("{url}/api/tags")).send().await.is_err());
    let is_it = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("a client's certificate was refused")
    };
    let line = gateway.logged("the refusal", is_it).await;
    assert_eq!(
        (&line["level"], &line["client"]),
        (&json!("INFO"), &json!("127.0.0.1"))
    );
    assert!(
        line.to_string().contains("invalid peer certificate"),
        "{line}"
    );
}
