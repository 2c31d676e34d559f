#![allow(clippy::unwrap_used)]
use std::convert::Infallible;

use http::{HeaderMap, Method, Request, Response, Uri, Version};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::Failure;

/// The request as the server gets it, and the headers of the response `given`.
async fn forwarded(
    server: &str,
    request: Request<()>,
    given: &[(&str, &str)],
) -> (Request<()>, HeaderMap) {
    let (sender, seen) = std::sync::mpsc::channel();
    let mut response = Response::new(());
    for (name, value) in given {
        let name: http::HeaderName = name.parse().unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    let server_side = service_fn(move |request: Request<()>| {
        sender.send(request).unwrap();
        let response = response.clone();
        async { Ok::<_, Infallible>(response) }
    });
    let layer = ForwardLayer::new(server.parse().unwrap()).unwrap();
    let answer = layer.layer(server_side).oneshot(request).await.unwrap();
    (seen.recv().unwrap(), answer.headers().clone())
}

async fn uri(server: &str, asked: &str) -> String {
    let request = Request::builder().uri(asked).body(()).unwrap();
    forwarded(server, request, &[]).await.0.uri().to_string()
}

#[tokio::test]
async fn the_servers_address_replaces_the_origin_and_its_path_goes_in_front() {
    for (server, asked, expected) in [
        ("http://gpu", "/api/chat", "http://gpu/api/chat"),
        ("http://gpu/", "/", "http://gpu/"),
        ("http://gpu:1", "/a?b=/c", "http://gpu:1/a?b=/c"),
        ("https://gpu/x/", "/a", "https://gpu/x/a"),
        ("https://gpu/x/y", "/a//b?c", "https://gpu/x/y/a//b?c"),
        ("http://gpu", "http://public.example/a", "http://gpu/a"),
        ("http://gpu", "http://public.example", "http://gpu/"),
        ("http://gpu/x", "*", "http://gpu/x"),
        ("http://gpu", "*", "http://gpu/"),
        ("http://[::1]:2", "/a", "http://[::1]:2/a"),
    ] {
        assert_eq!(uri(server, asked).await, expected, "{server} {asked}");
    }
}

#[test]
fn an_address_without_scheme_or_host_or_with_more_than_a_path_is_refused() {
    for address in [
        "/path",
        "gpu:1",
        "*",
        "http://gpu/?a",
        "http://me:secret@gpu/",
    ] {
        let refused = ForwardLayer::new(address.parse::<Uri>().unwrap());
        assert_eq!(refused.unwrap_err(), InvalidServerAddress, "{address}");
    }
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_in_both_directions_and_the_others_pass() {
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_10)
        .header("host", "public.example")
        .header("connection", "x-hop, keep-alive, content-length")
        .header("x-hop", "1")
        .header("content-length", "0")
        .header("te", "trailers")
        .header("authorization", "Bearer key");
    let response = [
        ("connection", "close"),
        ("connection", "x-too"),
        ("x-too", "1"),
        ("keep-alive", "timeout=5"),
        ("content-type", "text/plain"),
    ];
    let request = request.body(()).unwrap();
    let (request, answered) = forwarded("http://gpu:1", request, &response).await;
    let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "content-length", "host"]);
    assert_eq!(request.headers()["host"], "gpu:1");
    assert_eq!(request.version(), Version::HTTP_11);
    let names: Vec<_> = answered.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["content-type"]);
}

#[tokio::test]
async fn a_path_that_is_too_long_with_the_servers_is_the_clients_error() {
    let layer = ForwardLayer::new("http://gpu/prefix".parse().unwrap()).unwrap();
    let unreachable = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
    let long = format!("/{}", "a".repeat(65_530));
    let request = Request::builder().uri(long).body(()).unwrap();
    let error = layer.layer(unreachable).oneshot(request).await.unwrap_err();
    assert_eq!(Failure::find(&*error).unwrap().status(), 414);
}

#[tokio::test]
async fn a_path_that_the_server_would_resolve_to_another_one_is_refused() {
    let refuse = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
    let layer = ForwardLayer::new("http://gpu/ollama".parse().unwrap()).unwrap();
    for path in [
        "/../admin",
        "/a/..",
        "/a/./b",
        "/%2e%2E/admin",
        "/.%2e/admin",
        "/api\\delete",
    ] {
        let request = Request::get(path).body(()).unwrap();
        let error = layer.layer(refuse).oneshot(request).await.unwrap_err();
        let failure = Failure::find(&*error).unwrap();
        assert_eq!(failure.kind(), "ambiguous_path", "{path}");
        assert_eq!(failure.status(), http::StatusCode::BAD_REQUEST);
    }
    for path in ["/a..b", "/...", "/.hidden", "/a%2fb", "/?q=../x"] {
        let request = Request::get(path).body(()).unwrap();
        assert!(layer.layer(refuse).oneshot(request).await.is_ok(), "{path}");
    }
    let tunnel = Request::connect("other:443").body(()).unwrap();
    let error = layer.layer(refuse).oneshot(tunnel).await.unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), http::StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_length_beside_a_transfer_encoding_is_not_passed_on() {
    let chunked = [("transfer-encoding", "chunked"), ("content-length", "3")];
    let request = Request::new(());
    let (_, headers) = forwarded("http://gpu", request, &chunked).await;
    assert!(headers.is_empty(), "{headers:?}");
}

#[tokio::test]
async fn credentials_for_this_proxy_stay_here() {
    let request = Request::get("/").header("proxy-authorization", "Basic eA==");
    let request = request.body(()).unwrap();
    let (request, _) = forwarded("http://gpu", request, &[]).await;
    assert!(!request.headers().contains_key("proxy-authorization"));
}
