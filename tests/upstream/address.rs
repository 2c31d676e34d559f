//! Addresses of backends: syntax and display.

use llamatower::ollama::upstream::{Address, ServerKind};

#[test]
fn usual_spellings_of_addresses_are_accepted() {
    for (given, shown) in [
        ("http://localhost:11434", "localhost:11434"),
        ("http://gpu-1:8080/", "gpu-1:8080"),
        ("gpu-1", "gpu-1:11434"),
        ("10.0.0.7:11434", "10.0.0.7:11434"),
        ("http://[::1]:11434", "[::1]:11434"),
    ] {
        let address: Address = given.parse().expect(given);
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.authority_header(), shown);
    }
    let v6: Address = "http://[::1]:1".parse().expect("an IPv6 address");
    assert_eq!(v6.host(), "::1");
}

#[test]
fn one_of_several_addresses_is_displayed_by_its_ip_address() {
    let name: Address = "http://ollama.models:11434".parse().expect("a name");
    assert_eq!(name.ip(), None);
    let only = name.at([10, 0, 0, 7].into());
    assert_eq!(only.to_string(), "ollama.models:11434");
    let one = name.one_at([10, 0, 0, 7].into());
    assert_eq!(one.to_string(), "10.0.0.7:11434");
    assert_eq!(one.authority_header(), "ollama.models:11434");
    assert_eq!(one.ip(), Some([10, 0, 0, 7].into()));
}

#[test]
fn https_has_its_own_port_and_a_prefix_is_displayed() {
    for (given, shown, authority) in [
        ("https://gpu.example", "gpu.example:443", "gpu.example"),
        ("HTTPS://gpu.example:443/", "gpu.example:443", "gpu.example"),
        (
            "https://gpu.example:8443/a/b/",
            "gpu.example:8443/a/b",
            "gpu.example:8443",
        ),
        ("https://[::1]/ollama", "[::1]:443/ollama", "[::1]"),
        ("http://gpu-1/ollama", "gpu-1:11434/ollama", "gpu-1:11434"),
    ] {
        let address: Address = given.parse().expect(given);
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.authority_header(), authority);
    }
    let address: Address = "https://gpu.example/ollama".parse().expect("an address");
    assert!(address.is_https());
    assert_eq!(address.prefix(), "/ollama");
    let one = address.one_at([10, 0, 0, 7].into());
    assert_eq!(one.to_string(), "10.0.0.7:443/ollama");
    assert_eq!(one.authority_header(), "gpu.example");
}

#[test]
fn an_openai_compatible_server_has_its_own_scheme_ports_and_base_path() {
    for (given, shown, has_v1, is_https) in [
        ("openai+http://gpu-1:8000/v1", "gpu-1:8000", true, false),
        ("OpenAI+HTTP://gpu-1:8000/v1/", "gpu-1:8000", true, false),
        ("openai+http://gpu-1:8000", "gpu-1:8000", true, false),
        ("openai+http://gpu-1/v1", "gpu-1:80", true, false),
        (
            "openai+https://api.example/openai/v1",
            "api.example:443/openai",
            true,
            true,
        ),
        (
            "openai+https://api.example/v4",
            "api.example:443/v4",
            false,
            true,
        ),
    ] {
        let address: Address = given.parse().expect(given);
        assert_eq!(address.to_string(), shown);
        assert_eq!(address.kind(), ServerKind::OpenAi { has_v1 });
        assert_eq!(address.is_https(), is_https);
        assert!(address.is_openai());
    }
    for given in [
        "openai+gpu-1:8000",
        "openai+ftp://gpu-1/v1",
        "openai+http:///v1",
    ] {
        assert!(given.parse::<Address>().is_err(), "{given}");
    }
    let ollama: Address = "http://gpu-1:8000/v1".parse().expect("an address");
    assert_eq!(ollama.kind(), ServerKind::Ollama);
}

#[test]
fn a_server_is_named_by_its_address_or_its_host_with_or_without_the_port() {
    let servers = [
        "gpu-1",
        "gpu-1:1",
        "https://gpu.example/a",
        "https://gpu.example/b",
    ];
    let servers = servers.map(|server| server.parse().expect("an address"));
    for (name, expected) in [
        ("gpu-1", &[0][..]),
        ("http://gpu-1:1", &[1]),
        ("https://gpu.example/b", &[3]),
        ("GPU.example", &[2, 3]),
        ("gpu.example:443", &[2, 3]),
        ("gpu", &[]),
        ("gpu.example:8443", &[]),
        ("http://gpu.example/a", &[]),
        ("https://gpu.example", &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|index| &servers[*index]).collect();
        assert_eq!(Address::called(&servers, name), expected, "{name}");
    }
}

#[test]
fn an_address_with_a_user_name_is_refused_and_not_repeated() {
    for given in [
        "http://u:hunter2@gpu",
        "https://hunter2@gpu.example/ollama",
        "u:hunter2@gpu",
        "http://u:hunter2%40gpu",
        "ftp://u:hunter2@gpu",
        "https://user:hunter2",
        "user:hunter2",
        "https://user:hunter2/ollama",
        "hunter2@",
    ] {
        let refused = given.parse::<Address>().expect_err(given);
        for told in [refused.to_string(), format!("{refused:?}")] {
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}

#[test]
fn an_invalid_address_is_refused_with_a_reason() {
    for given in [
        "",
        "ftp://gpu",
        "https://",
        "http://gpu?x",
        "http://gpu/a?x",
        "http://gpu#x",
        "http://gpu:65536",
        "http://gpu:x",
        "https://gpu/a//b",
        "https://gpu/a/../b",
        "https://gpu/%2e",
        "a b",
    ] {
        let refused = given.parse::<Address>().expect_err(given);
        assert!(
            refused.to_string().contains("http://localhost:11434"),
            "{refused}"
        );
    }
}
