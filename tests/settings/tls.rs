//! The settings of TLS, and the files that they name.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

/// Files with a certificate and its key.
pub(crate) struct Pair {
    _directory: tempfile::TempDir,
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(CertificateParams::new(["localhost".to_owned()]).expect("a name"))
    }

    fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate").pem();
        Self::of(&cert, &key.serialize_pem())
    }

    /// Files with these contents.
    fn of(cert: &str, key: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("it can be written");
            path.to_str().expect("a plain path").to_owned()
        };
        Self {
            cert: write("tls.crt", cert),
            key: write("tls.key", key),
            _directory: directory,
        }
    }

    fn text(path: &str) -> String {
        std::fs::read_to_string(path).expect("it can be read")
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("LLAMATOWER_TLS_CERT", &self.cert),
            ("LLAMATOWER_TLS_KEY", &self.key),
        ]
    }

    fn warnings(&self, more: &[(&str, &str)]) -> Vec<String> {
        let loaded = load(&[&self.settings(), more].concat());
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        loaded.warnings.iter().map(Problem::to_string).collect()
    }

    fn error(&self, more: &[(&str, &str)]) -> String {
        let error = load(&[&self.settings(), more].concat()).expect_err("it is wrong");
        assert_eq!(error.problems().len(), 1, "{error}");
        error.to_string()
    }
}

#[test]
fn a_sound_pair_has_no_warning() {
    assert_eq!(Pair::new().warnings(&[]), [""; 0]);
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_setting() {
    let (one, other) = (Pair::new(), Pair::new());
    let (cert, key) = (Pair::text(&one.cert), Pair::text(&one.key));
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let two = [Pair::text(&other.cert), cert.clone()].concat();
    for (pair, setting, reason) in [
        (
            Pair::of(&cert, &Pair::text(&other.key)),
            "LLAMATOWER_TLS_KEY: ",
            "another certificate",
        ),
        (
            Pair::of("", &key),
            "LLAMATOWER_TLS_CERT: ",
            "no certificate",
        ),
        (
            Pair::of(&key, &key),
            "LLAMATOWER_TLS_CERT: ",
            "private key and no certificate",
        ),
        (
            Pair::of(&cert, &cert),
            "LLAMATOWER_TLS_KEY: ",
            "no private key",
        ),
        (
            Pair::of(&cert, encrypted),
            "LLAMATOWER_TLS_KEY: ",
            "password",
        ),
        (
            Pair::of(&two, &key),
            "LLAMATOWER_TLS_CERT: ",
            "must be the first",
        ),
        (
            Pair::of(
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                &key,
            ),
            "LLAMATOWER_TLS_CERT: ",
            "not a valid PEM file",
        ),
        (
            Pair::of(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &key,
            ),
            "LLAMATOWER_TLS_CERT: ",
            "cannot be read",
        ),
    ] {
        let error = pair.error(&[]);
        assert!(error.starts_with(setting), "{error}");
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!error.contains("-----"), "{error}");
    }
    let missing = Pair::new();
    std::fs::remove_file(&missing.key).expect("it is there");
    let error = missing.error(&[]);
    assert!(error.starts_with("LLAMATOWER_TLS_KEY: "), "{error}");
    assert!(error.contains("cannot be read"), "{error}");
    let ca = ("LLAMATOWER_TLS_CLIENT_CA", &*one.key);
    let error = one.error(&[ca]);
    assert!(error.starts_with("LLAMATOWER_TLS_CLIENT_CA: "), "{error}");
}

#[test]
fn half_a_file_is_told_in_words() {
    let one = Pair::new();
    let (cert, key) = (Pair::text(&one.cert), Pair::text(&one.key));
    for pair in [
        Pair::of(&cert[..cert.len() / 2], &key),
        Pair::of(&cert, &key[..key.len() / 2]),
    ] {
        let error = pair.error(&[]);
        let reason =
            "not a valid PEM file: a section has no end (-----END ..-----); is the file complete?";
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_certificate_that_expires_within_14_days_is_a_warning() {
    let warnings = |days: f64, lifetime: f64| {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let day = std::time::Duration::from_hours(24);
        let end = std::time::SystemTime::now() + day.mul_f64(days);
        params.not_after = end.into();
        params.not_before = (end - day.mul_f64(lifetime)).into();
        Pair::with(params).warnings(&[])
    };
    for (days, lifetime, shown) in [
        (13.5, 90.0, "the certificate expires in 13 days ("),
        (1.52, 90.0, "the certificate expires in 36 hours ("),
        // It is renewed by a program, every day.
        (0.3, 1.0, "the certificate expires in 7 hours ("),
    ] {
        let warnings = warnings(days, lifetime);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(shown), "{warnings:?}");
    }
    for (days, lifetime) in [(14.5, 90.0), (0.9, 1.0)] {
        assert_eq!(warnings(days, lifetime), [""; 0], "{days} {lifetime}");
    }
}

#[test]
fn a_certificate_out_of_its_time_or_of_an_authority_is_a_warning() {
    let params = || CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let mut old = params();
    old.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let mut new = params();
    new.not_before = rcgen::date_time_ymd(4001, 1, 1);
    let mut authority = params();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (params, reason) in [
        (old, "has expired (2002-01-01"),
        (new, "not valid yet"),
        (authority, "CA:FALSE"),
    ] {
        let warnings = Pair::with(params).warnings(&[]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("LLAMATOWER_TLS_CERT: "),
            "{warnings:?}"
        );
        assert!(warnings[0].contains(reason), "{warnings:?}");
    }
}

#[test]
fn settings_without_a_certificate_are_told() {
    let pair = Pair::new();
    for (name, value) in [
        ("LLAMATOWER_TLS_CERT", &*pair.cert),
        ("LLAMATOWER_TLS_KEY", &pair.key),
        ("LLAMATOWER_TLS_LISTENERS", "public"),
        ("LLAMATOWER_TLS_CLIENT_CA", &CA_FILE.1),
        ("LLAMATOWER_TLS_CLIENT_CERTS", "required"),
    ] {
        let error = load(&[(name, value)]).expect_err(name).to_string();
        assert!(error.starts_with(name), "{error}");
    }
    let identities = ("LLAMATOWER_TLS_CLIENT_IDENTITIES", "a=ada");
    let warnings = pair.warnings(&[identities]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("LLAMATOWER_TLS_CLIENT_CA"),
        "{warnings:?}"
    );
    let error = pair.error(&[("LLAMATOWER_TLS_LISTENERS", "public, 10.0.0.1:1")]);
    assert!(error.contains("10.0.0.1:1 is not an address"), "{error}");
}

/// Which addresses speak TLS with these settings.
fn speaking(settings: &[(&str, &str)]) -> String {
    let pair = Pair::new();
    let loaded = load(&[&pair.settings(), settings].concat());
    let settings = loaded.unwrap_or_else(|error| panic!("{error}")).settings;
    let all = [Listener::Public, Listener::Admin, Listener::Metrics];
    let addresses = all.map(|listener| settings.listening(listener).tls);
    let addresses = addresses.iter().flatten().map(ToString::to_string);
    addresses.collect::<Vec<_>>().join(" ")
}

#[test]
fn clients_use_tls_and_others_if_other_machines_can_reach_them() {
    let reachable = [
        ("LLAMATOWER_LISTEN", "0.0.0.0:3000, unix:/run/x"),
        ("LLAMATOWER_ADMIN_LISTEN", "10.0.0.7:3001"),
        ("LLAMATOWER_METRICS_LISTEN", "0.0.0.0:9090"),
    ];
    let only = |which| [&reachable[..], &[("LLAMATOWER_TLS_LISTENERS", which)]].concat();
    for (settings, expected) in [
        (vec![], "127.0.0.1:3000"),
        (
            reachable.to_vec(),
            "0.0.0.0:3000 10.0.0.7:3001 0.0.0.0:9090",
        ),
        (only("public"), "0.0.0.0:3000"),
        (only("admin, 0.0.0.0:9090"), "10.0.0.7:3001 0.0.0.0:9090"),
    ] {
        assert_eq!(speaking(&settings), expected, "{settings:?}");
    }
    let none = load(&[]).expect("sound").settings;
    assert_eq!(none.listening(Listener::Public).tls, []);
}
