//! The settings of the cloud service.

use super::*;

#[test]
fn a_public_cloud_service_without_https_is_a_warning() {
    let warnings = |url: &str, when: &str| {
        let settings = [
            ("LLAMATOWER_CLOUD_URL", url),
            ("LLAMATOWER_CLOUD_WHEN", when),
            ("LLAMATOWER_CLOUD_MODELS", "a=b"),
            ("LLAMATOWER_CLOUD_ANONYMOUS", "true"),
            ("GROQ_API_KEY", "gsk-secret"),
        ];
        let warnings = load(&settings).expect("valid").warnings;
        let texts = warnings.iter().map(ToString::to_string);
        let texts = texts.filter(|text| text.contains("clear text"));
        texts.collect::<Vec<_>>()
    };
    for public in [
        "http://llm.example/v1",
        "http://203.0.113.7:8000/v1",
        "http://100.128.0.1/v1",
        "http://[2001:db8::7]/v1",
    ] {
        let warnings = warnings(public, "down");
        assert_eq!(warnings.len(), 1, "{public}: {warnings:?}");
        assert!(
            warnings[0].starts_with("LLAMATOWER_CLOUD_URL: "),
            "{warnings:?}"
        );
    }
    for private in [
        "https://llm.example/v1",
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://10.1.2.3/v1",
        "http://192.168.1.2/v1",
        "http://100.64.0.1/v1",
        "http://[::1]/v1",
        "http://[fd00::7]/v1",
        "http://gpu-1:8000/v1",
        "http://llm.default.svc/v1",
        "http://llm.home.arpa/v1",
    ] {
        assert!(warnings(private, "down").is_empty(), "{private}");
    }
    assert!(
        warnings("http://llm.example/v1", "off").is_empty(),
        "nothing is sent there"
    );
}

#[test]
fn a_key_in_the_section_of_the_cloud_is_sent_to_the_section_of_keys() {
    for line in ["key = \"x\"", "api_key = \"x\""] {
        let error = load_file(&format!("[cloud]\n{line}\n"), &[]).expect_err("unknown");
        assert!(
            error.to_string().contains("did you mean keys.groq?"),
            "{error}"
        );
    }
}
