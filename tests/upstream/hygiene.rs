//! Which headers go to a backend, and which come back.

use http::header::HeaderName;
use http::{Method, Request};
use llamatower::ollama::hygiene::{clean_request, clean_response};
use llamatower_layers::EndpointTable;

fn request(target: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post(target).body(()).expect("a request");
    for (name, value) in headers {
        let value = value.parse().expect("a header value");
        request.headers_mut().append(*name, value);
    }
    let path = request.uri().path().to_owned();
    let found = EndpointTable::ollama().look_up(&Method::POST, &path);
    found.put_into(request.extensions_mut());
    request
}

fn cleaned_request(target: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = request(target, headers);
    clean_request(&mut request);
    request
}

#[test]
fn headers_about_the_client_are_not_sent_to_a_backend() {
    let cleaned = cleaned_request(
        "/api/chat",
        &[
            ("authorization", "Bearer secret"),
            ("x-api-key", "secret"),
            ("cookie", "a=b"),
            ("origin", "http://localhost"),
            ("x-forwarded-for", "10.1.1.1"),
            ("x-forwarded-host", "evil"),
            ("x-openwebui-user-name", "Ada"),
            ("forwarded", "for=10.1.1.1"),
            ("content-type", "application/json"),
            ("user-agent", "a client"),
        ],
    );
    let mut left: Vec<_> = cleaned.headers().keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept-encoding", "content-type", "user-agent"]);
}

#[test]
fn headers_that_connection_names_stay_on_their_hop() {
    let cleaned = cleaned_request(
        "/api/chat",
        &[
            ("connection", "Upgrade, HTTP2-Settings, x-hop, content-type"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("x-hop", "1"),
            ("content-type", "application/json"),
        ],
    );
    let left: Vec<_> = cleaned.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(left, ["content-type", "accept-encoding"]);
}

#[test]
fn a_backend_is_asked_for_a_response_that_is_not_compressed() {
    for accepted in [
        &[][..],
        &[("accept-encoding", "gzip, br"), ("accept-encoding", "zstd")],
    ] {
        let cleaned = cleaned_request("/v1/chat/completions", accepted);
        let mut sent = cleaned.headers().get_all("accept-encoding").iter();
        assert_eq!(sent.next().expect("a value"), "identity");
        assert_eq!(sent.next(), None);
    }
}

#[test]
fn the_target_is_rebuilt_from_the_table() {
    let cleaned = cleaned_request("http://elsewhere/v1/messages?beta=true", &[]);
    assert_eq!(cleaned.uri(), "/v1/messages");
}

#[test]
fn a_stream_tells_proxies_not_to_buffer() {
    let answer = http::Response::builder()
        .header("content-type", "application/x-ndjson")
        .header("transfer-encoding", "chunked")
        .body(())
        .expect("a response");
    let mut cleaned = answer.into_parts().0;
    clean_response(&mut cleaned);
    assert_eq!(cleaned.headers["x-accel-buffering"], "no");
    assert!(!cleaned.headers.contains_key("transfer-encoding"));
}
