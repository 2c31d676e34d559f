//! Ollama's rules for `Origin` and `Host`.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, HOST, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::routes;
use crate::wire::{SimBody, answer};

const HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout";

/// The allowed origin of a browser request, or the answer to a refused request.
pub(super) fn check_origin_and_host(
    head: &Parts,
) -> Result<Option<HeaderValue>, Box<Response<SimBody>>> {
    let host = head
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if !is_local(host) {
        return Err(Box::new(answer::empty(StatusCode::FORBIDDEN)));
    }
    let Some(origin) = head.headers.get(ORIGIN) else {
        return Ok(None);
    };
    if !origin.to_str().is_ok_and(is_allowed) {
        let mut refusal = answer::empty(StatusCode::FORBIDDEN);
        add_allowed_methods(head, refusal.headers_mut());
        return Err(Box::new(refusal));
    }
    if head.method != Method::OPTIONS {
        return Ok(Some(origin.clone()));
    }
    let mut preflight = answer::empty(StatusCode::NO_CONTENT);
    let headers = preflight.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(HEADERS),
    );
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    );
    allow(headers, origin.clone());
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("43200"));
    for name in [
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
    ] {
        headers.append(VARY, HeaderValue::from_static(name));
    }
    add_allowed_methods(head, headers);
    Err(Box::new(preflight))
}

/// Gin finds the methods of a path before it calls any handler.
fn add_allowed_methods(head: &Parts, headers: &mut HeaderMap) {
    if head.method == Method::OPTIONS
        && let Some(methods) = routes::methods_of(head.uri.path())
        && let Ok(methods) = HeaderValue::try_from(methods.join(", "))
    {
        headers.insert(ALLOW, methods);
    }
}

/// Allows the page of this origin to read the answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

fn is_allowed(origin: &str) -> bool {
    let schemes = [
        "app://",
        "file://",
        "tauri://",
        "vscode-webview://",
        "vscode-file://",
    ];
    let rest = origin
        .strip_prefix("http://")
        .or(origin.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(':').next().unwrap_or_default());
    schemes.iter().any(|scheme| origin.starts_with(scheme))
        || matches!(host, Some("localhost" | "127.0.0.1" | "0.0.0.0"))
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.is_empty()
        || name == "localhost"
        || name.ends_with(".localhost")
        || name.ends_with(".local")
        || name.ends_with(".internal")
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok()
}
