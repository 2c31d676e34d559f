//! Paths and methods, handled like gin.

use http::header::LOCATION;
use http::{HeaderValue, Method, Response, StatusCode};

use super::{Call, inference, store};
use crate::wire::{SimBody, answer};

const ROUTES: &[(&str, &[&str])] = &[
    ("/", &["GET", "HEAD"]),
    ("/api/version", &["GET", "HEAD"]),
    ("/api/status", &["GET"]),
    ("/api/tags", &["GET", "HEAD"]),
    ("/api/ps", &["GET"]),
    ("/api/show", &["POST"]),
    ("/api/generate", &["POST"]),
    ("/api/chat", &["POST"]),
    ("/api/embed", &["POST"]),
    ("/api/embeddings", &["POST"]),
    ("/api/pull", &["POST"]),
    ("/api/push", &["POST"]),
    ("/api/create", &["POST"]),
    ("/api/blobs/", &["HEAD", "POST"]),
    ("/api/copy", &["POST"]),
    ("/api/delete", &["DELETE"]),
    ("/api/me", &["POST"]),
    ("/api/signout", &["POST"]),
    ("/v1/chat/completions", &["POST"]),
    ("/v1/completions", &["POST"]),
    ("/v1/embeddings", &["POST"]),
    ("/v1/models", &["GET"]),
    ("/v1/models/", &["GET"]),
    ("/v1/audio/transcriptions", &["POST"]),
    ("/v1/responses", &["POST"]),
    ("/v1/messages", &["POST"]),
];

/// The methods of a path.
pub(super) fn methods_of(path: &str) -> Option<&'static [&'static str]> {
    let exact = ROUTES.iter().find(|(route, _)| *route == path);
    let below = || {
        ROUTES.iter().find(|(route, _)| {
            let rest = path.strip_prefix(route);
            route.len() > 1 && route.ends_with('/') && rest.is_some_and(|rest| !rest.is_empty())
        })
    };
    exact.or_else(below).map(|(_, methods)| *methods)
}

/// The decoded path, or gin's redirect for a path that is not clean.
pub(super) fn clean(method: &Method, raw: &str) -> Result<String, Box<Response<SimBody>>> {
    let path = unescaped(raw);
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let clean = format!("/{}", parts.join("/"));
    let is_clean = clean == path;
    let only_slash = path.strip_suffix('/').is_some_and(|rest| rest == clean);
    if is_clean || (only_slash && methods_of(&path).is_some()) {
        return Ok(path);
    }
    if only_slash && methods_of(&clean).is_some() {
        let status = if *method == Method::GET {
            StatusCode::MOVED_PERMANENTLY
        } else {
            StatusCode::TEMPORARY_REDIRECT
        };
        return Err(Box::new(redirect(status, &clean)));
    }
    if methods_of(&clean).is_some() {
        return Err(Box::new(redirect(StatusCode::TEMPORARY_REDIRECT, &clean)));
    }
    Ok(path)
}

fn redirect(status: StatusCode, to: &str) -> Response<SimBody> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut answer = answer::bytes(
        status,
        "text/html; charset=utf-8",
        format!("<a href=\"{to}\">{reason}</a>.\n\n"),
    );
    if let Ok(to) = HeaderValue::try_from(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

fn unescaped(raw: &str) -> String {
    let mut rest = raw.as_bytes();
    let mut read = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        read.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&read).into_owned()
}

/// Answers a call by its path.
pub(super) async fn dispatch(method: &Method, call: Call) -> Response<SimBody> {
    let Some(methods) = methods_of(&call.path) else {
        return answer::unknown_path();
    };
    if !methods.contains(&method.as_str()) {
        let allowed = HeaderValue::try_from(methods.join(", "));
        return answer::wrong_method(allowed.unwrap_or(HeaderValue::from_static("")));
    }
    let path = call.path.clone();
    match path.as_str() {
        "/" => answer::bytes(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "Ollama is running",
        ),
        "/api/generate"
        | "/api/chat"
        | "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/responses"
        | "/v1/messages" => inference::generate(call).await,
        "/api/embed" | "/api/embeddings" | "/v1/embeddings" => inference::embed(call).await,
        "/v1/audio/transcriptions" => inference::transcribe(call).await,
        _ => store::answer(method, &path, call).await,
    }
}
