//! Tests of the TLS client only: trust and its errors.

use std::time::Duration;

use llamatower::ollama::upstream::{
    Access, Address, AnswerBroken, Authorities, ConnectFailed, ConnectTimeout, PoolLimits, Upstream,
};
use llamatower_layers::Failure;
use rcgen::CertificateParams;

use crate::support::{
    ACCESS, AUTHORITY, AUTHORITY_NAME, Answer, Authority, HELLO, Leaf, Server, ask, cause_of,
    names, pair, text, upstream,
};

/// The error for a server with such a certificate.
async fn refusal(params: CertificateParams, access: &Access) -> Failure {
    let server = Server::with(Some(AUTHORITY.acceptor(&params))).await;
    let upstream = upstream(server.address(), access);
    tokio::spawn(async move { server.try_accept().await });
    let failure = cause_of(ask(&upstream).await.expect_err("it is not trusted"));
    assert!(failure.caused_by::<ConnectFailed>().is_some(), "{failure}");
    failure
}

#[tokio::test]
async fn an_authority_that_is_not_known_is_refused_with_the_setting_to_change() {
    for name in [AUTHORITY_NAME, "another"] {
        let access = Authority::new(name).access();
        let refused = refusal(names(), &access).await.to_string();
        assert!(refused.contains("LLAMATOWER_BACKEND_CA_FILE"), "{refused}");
        assert!(refused.contains("127.0.0.1"), "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let params = CertificateParams::new(["other.example".to_owned()]).expect("a name");
    let refused = refusal(params, &ACCESS).await.to_string();
    assert!(refused.contains("is not for 127.0.0.1"), "{refused}");
    assert!(refused.contains("OLLAMA_URL"), "{refused}");
}

#[tokio::test]
async fn the_certificate_of_an_authority_is_refused_with_the_way_to_make_another() {
    let mut params = names();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let refused = refusal(params, &ACCESS).await.to_string();
    assert!(refused.contains("CA:FALSE"), "{refused}");
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    for (from, to, reason) in [(2001, 2002, "has expired"), (4001, 4002, "not valid yet")] {
        let mut params = names();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let refused = refusal(params, &ACCESS).await.to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[tokio::test]
async fn without_any_trust_no_server_is_asked() {
    let refused = refusal(names(), &Access::default()).await.to_string();
    assert!(refused.contains("no authority"), "{refused}");
}

#[tokio::test]
async fn a_server_without_tls_has_its_own_error() {
    let server = Server::start(Leaf::Plain).await;
    let address = format!("https://127.0.0.1:{}", server.port());
    let upstream = upstream(address.parse().expect("an address"), &ACCESS);
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.try_send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.is_closed().await
    });
    let failure = cause_of(ask(&upstream).await.expect_err("no TLS"));
    assert!(failure.caused_by::<ConnectFailed>().is_some(), "{failure}");
    assert!(
        failure.to_string().contains("does not speak TLS"),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_shake_hands_times_out() {
    let server = Server::start(Leaf::Tls).await;
    let limits = PoolLimits::default();
    let limit = Duration::from_secs(2);
    let upstream = Upstream::with_access(server.address(), limit, limits, &ACCESS);
    let _waiting = server.into_listener();
    let failure = cause_of(ask(&upstream).await.expect_err("no handshake"));
    assert!(failure.caused_by::<ConnectTimeout>().is_some(), "{failure}");
}

#[tokio::test]
async fn a_resolved_name_is_used_for_sni_and_host() {
    let server = Server::start(Leaf::Tls).await;
    let address = format!("https://gpu.example:{}", server.port());
    let address: Address = address.parse().expect("an address");
    let one = address.one_at([127, 0, 0, 1].into());
    let authority = format!("host: gpu.example:{}\r\n", server.port());
    let upstream = upstream(one, &ACCESS);
    let served = tokio::spawn(async move { server.accept().await.answer(HELLO).await });
    let answer = ask(&upstream).await.expect("an answer");
    assert_eq!(text(answer).await, "hello");
    let seen = served.await.expect("no panic");
    assert!(seen.contains(&authority), "{seen}");
}

/// The response of a server that ends it by closing the connection, with or without a TLS
/// close_notify.
async fn until_close(says_goodbye: bool) -> Answer {
    let (server, upstream) = pair(Leaf::Tls).await;
    tokio::spawn(async move {
        let mut peer = server.accept().await;
        peer.answer("HTTP/1.1 200 OK\r\n\r\nhello").await;
        if says_goodbye {
            peer.close().await;
        }
    });
    ask(&upstream).await.expect("a head")
}

#[tokio::test]
async fn a_response_without_close_notify_is_incomplete() {
    use http_body_util::BodyExt;
    assert_eq!(text(until_close(true).await).await, "hello");
    let body = until_close(false).await.into_body();
    let failure = cause_of(body.collect().await.expect_err("no goodbye"));
    assert!(failure.caused_by::<AnswerBroken>().is_some(), "{failure}");
}

#[test]
fn a_file_without_a_certificate_is_refused() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, reason) in [
        ("", "contains no certificate"),
        ("hello", "contains no certificate"),
        (&key.serialize_pem(), "contains no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "is not a PEM file"),
        (broken, "cannot be used"),
    ] {
        let refused = Authorities::from_pem(pem.as_bytes()).expect_err(pem);
        assert!(refused.contains(reason), "{refused}");
    }
}
