//! Who may call from a web page: Ollama's own rules for `Origin` and `Host`.
//!
//! They are all that stands between a page in somebody's browser and the models on their
//! machine, so the gateway judges by them itself before it drops both headers: a foreign
//! `Origin` is refused whatever the method, and on a loopback listener a foreign `Host` is
//! (DNS rebinding).

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];
const LOCAL_SCHEMES: [&str; 5] = ["app", "file", "tauri", "vscode-webview", "vscode-file"];
const LOCAL_SUFFIXES: [&str; 3] = [".localhost", ".local", ".internal"];

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,\
     X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,\
     X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,\
     X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
);
const MAX_AGE: HeaderValue = HeaderValue::from_static("43200");

/// The origins whose pages may call.
#[derive(Clone, Debug)]
pub struct Origins {
    patterns: Vec<Pattern>,
    allows_all: bool,
}

/// An origin with at most one `*` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Around(String, String),
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = text.trim().to_ascii_lowercase();
        match text.split_once('*') {
            Some((before, after)) => Self::Around(before.to_owned(), after.to_owned()),
            None => Self::Exact(text),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(text) => text == origin,
            Self::Around(before, after) => {
                origin.len() >= before.len() + after.len()
                    && origin.starts_with(before)
                    && origin.ends_with(after)
            }
        }
    }
}

/// What the `Origin` of a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No web page is asking, or one that this server gave out.
    NotCrossOrigin,
    /// The page may read the answer.
    Allowed(HeaderValue),
    /// The request is refused.
    Foreign,
}

impl Origins {
    /// Ollama's default origins and `more`, in the syntax of `OLLAMA_ORIGINS`: `*` stands for
    /// anything, once in each.
    pub fn new<'a>(more: impl IntoIterator<Item = &'a str>) -> Self {
        let more: Vec<&str> = more.into_iter().map(str::trim).collect();
        let local_hosts = LOCAL_HOSTS.iter().flat_map(|host| {
            ["http", "https"].into_iter().flat_map(move |scheme| {
                [format!("{scheme}://{host}"), format!("{scheme}://{host}:*")]
            })
        });
        let local_schemes = LOCAL_SCHEMES.iter().map(|scheme| format!("{scheme}://*"));
        let defaults = local_hosts.chain(local_schemes);
        let patterns = defaults.map(|text| Pattern::new(&text));
        Self {
            allows_all: more.contains(&"*"),
            patterns: patterns
                .chain(more.iter().map(|text| Pattern::new(text)))
                .collect(),
        }
    }

    pub(super) fn judge(&self, headers: &HeaderMap, host: &str) -> Verdict {
        let Some(given) = headers.get(ORIGIN).filter(|given| !given.is_empty()) else {
            return Verdict::NotCrossOrigin;
        };
        if headers.get_all(ORIGIN).iter().count() > 1 {
            return Verdict::Foreign;
        }
        let Ok(origin) = given.to_str().map(str::to_ascii_lowercase) else {
            return Verdict::Foreign;
        };
        let own = origin
            .strip_prefix("http://")
            .or(origin.strip_prefix("https://"));
        if own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
            return Verdict::NotCrossOrigin;
        }
        if self.allows_all {
            return Verdict::Allowed(HeaderValue::from_static("*"));
        }
        match self.patterns.iter().any(|pattern| pattern.matches(&origin)) {
            true => Verdict::Allowed(given.clone()),
            false => Verdict::Foreign,
        }
    }
}

/// What an allowed page is told with every answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    if origin != "*" {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}

/// What an allowed page is told when it asks beforehand.
pub(super) fn allow_preflight(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    let is_named = origin != "*";
    allow(headers, origin);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if is_named {
        for name in [
            "Access-Control-Request-Method",
            "Access-Control-Request-Headers",
        ] {
            headers.append(VARY, HeaderValue::from_static(name));
        }
    }
}

/// Whether a request to a loopback listener names a host that this machine may have.
pub(super) fn is_local_host(host: &str, own_name: &str) -> bool {
    let name = without_port(host);
    if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return is_local_address(ip);
    }
    let name = name.to_ascii_lowercase();
    name.is_empty()
        || name == "localhost"
        || name == own_name.to_ascii_lowercase()
        || LOCAL_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn is_local_address(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unspecified(),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            match name.contains(':') && !name.starts_with('[') {
                true => host,
                false => name,
            }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(origins: &Origins, origin: &str) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().expect("a header value"));
        origins.judge(&headers, "gateway:3000")
    }

    #[test]
    fn pages_of_this_machine_and_of_editors_may_call() {
        let origins = Origins::new(["https://chat.example", "https://*.team.example"]);
        for allowed in [
            "http://localhost",
            "http://localhost:8080",
            "https://127.0.0.1:1",
            "http://0.0.0.0:9",
            "app://obsidian.md",
            "file://",
            "tauri://localhost",
            "vscode-webview://abc",
            "vscode-file://vscode-app",
            "https://chat.example",
            "https://a.team.example",
        ] {
            let expected = Verdict::Allowed(allowed.parse().expect("a header value"));
            assert_eq!(verdict(&origins, allowed), expected, "{allowed}");
        }
        for foreign in [
            "https://evil.example",
            "http://localhost.evil.example",
            "null",
            "https://chat.example.evil",
            "http://localhostx",
            "https://team.example",
        ] {
            assert_eq!(verdict(&origins, foreign), Verdict::Foreign, "{foreign}");
        }
        assert_eq!(
            verdict(&origins, "http://gateway:3000"),
            Verdict::NotCrossOrigin
        );
    }

    #[test]
    fn a_star_allows_everybody() {
        let origins = Origins::new(["*"]);
        assert_eq!(
            verdict(&origins, "https://any.example"),
            Verdict::Allowed("*".parse().expect("a value"))
        );
    }

    #[test]
    fn a_loopback_listener_knows_the_names_of_its_machine() {
        for host in [
            "",
            "localhost",
            "localhost:3000",
            "127.0.0.1:3000",
            "[::1]:3000",
            "10.1.2.3",
            "box",
            "box:80",
            "x.local",
            "ollama.internal:1",
            "::1",
        ] {
            assert!(is_local_host(host, "box"), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "8.8.8.8", "x"] {
            assert!(!is_local_host(host, "box"), "{host}");
        }
    }
}
