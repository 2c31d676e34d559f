//! The layers that read a request.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use llamatower_layers::api_key::{ApiKeyLayer, KeySet, Role};
use llamatower_layers::body::MemoryBudget;
use llamatower_layers::body_limit::{BodyLimitLayer, RouteLimits};
use llamatower_layers::cache::CacheLayer;
use sha2::{Digest, Sha256};
use tower::ServiceBuilder;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::validate_request::{ValidateRequest, ValidateRequestHeaderLayer};
use tower_layer::layer_fn;
use tower_resilience_cache::CacheLayer as ResilienceCacheLayer;

use super::{body_limit as body_limit_layer, buffering, endpoints};
use crate::exchange::{Backend, ClientBody, KEY, KEY_DIGEST, Lines, request};
use crate::side::{Collect, Group, Peer, Side};

/// The digest of no key.
const OTHER_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub(super) fn api_key(backend: &Backend) -> Group {
    let ours = |digest: &str| {
        let line = format!("ada=sha256:{digest}");
        let keys = KeySet::from_lines([line.as_str()], Role::User).expect("a valid line");
        endpoints()
            .layer(ApiKeyLayer::new(keys))
            .service(backend.clone())
    };
    let plain = |key: &str| {
        let value = format!("Bearer {key}");
        let layer = ValidateRequestHeaderLayer::has_header_value("authorization", &value);
        ServiceBuilder::new()
            .layer(layer.expect("a valid name"))
            .service(backend.clone())
    };
    let digest = |digest: &str| {
        let layer = ValidateRequestHeaderLayer::custom(ByDigest::new(digest));
        ServiceBuilder::new().layer(layer).service(backend.clone())
    };
    Group {
        layer: "ApiKey",
        ours: Side::new(ours(KEY_DIGEST), endpoints().service(backend.clone()))
            .refusing(ours(OTHER_DIGEST)),
        peers: vec![
            Peer {
                name: "tower-http ValidateRequestHeader, a fixed value",
                side: Side::new(plain(KEY), backend.clone()).refusing(plain("other")),
                remark: "one key in plain text, which goes on to the backend; the comparison takes a time that depends on the key",
            },
            Peer {
                name: "tower-http ValidateRequestHeader, SHA-256 of the key",
                side: Side::new(digest(KEY_DIGEST), backend.clone()).refusing(digest(OTHER_DIGEST)),
                remark: "the same digest, which any table of digests needs; one form of credential",
            },
        ],
    }
}

pub(super) fn body_limit(backend: &Backend) -> Group {
    let ours = |layer| endpoints().layer(layer).service(backend.clone());
    let tiny = RouteLimits {
        inference: 10,
        ..RouteLimits::default()
    };
    let refusing = BodyLimitLayer::new(MemoryBudget::new(1 << 30)).with_route_limits(tiny);
    let peer = |bytes| {
        let layers = ServiceBuilder::new()
            .layer(RequestBodyLimitLayer::new(bytes))
            .layer(layer_fn(Collect));
        layers.service(backend.clone())
    };
    Group {
        layer: "BodyLimit",
        ours: Side::new(
            ours(body_limit_layer()),
            endpoints().service(backend.clone()),
        )
        .refusing(ours(refusing)),
        peers: vec![Peer {
            name: "tower-http RequestBodyLimit, and collect",
            side: Side::new(peer(1 << 20), backend.clone()).refusing(peer(10)),
            remark: "no memory budget, no time-out of the read; a body that cannot be sent again without a copy",
        }],
    }
}

/// A miss, whose answer is stored, and as the refused request a hit.
pub(super) fn cache(backend: &Backend) -> Group {
    let ours = |version: fn() -> String| {
        let layer = CacheLayer::new(1 << 20, move |_| Some(version().into()));
        buffering().layer(layer).service(backend.clone())
    };
    let peer = |version: fn() -> String| {
        let layer = ResilienceCacheLayer::<Request<ClientBody>, String>::builder()
            .key_extractor(move |_| version())
            .build()
            .expect("valid settings");
        ServiceBuilder::new().layer(layer).service(backend.clone())
    };
    let deterministic = || {
        const BODY: &str = r#"{"model":"llama3.2","prompt":"Why?","options":{"temperature":0}}"#;
        let (mut head, _) = request().into_parts();
        head.uri = Uri::from_static("/api/generate");
        head.headers.insert(CONTENT_LENGTH, BODY.len().into());
        Request::from_parts(head, ClientBody::from(BODY))
    };
    let always_new = || {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed).to_string()
    };
    let same = || String::from("v1");
    let without = buffering().service(backend.clone());
    Group {
        layer: "Cache, a miss and a hit",
        ours: Side::sending(deterministic(), ours(always_new), without)
            .answering(ours(same), deterministic()),
        peers: vec![Peer {
            name: "tower-resilience Cache",
            side: Side::sending(deterministic(), peer(always_new), backend.clone())
                .answering(peer(same), deterministic()),
            remark: "keeps a clone of the answer, so bodies must be `Clone`; does not read the request",
        }],
    }
}

/// The SHA-256 of the key decides, and the key does not reach the backend.
#[derive(Clone)]
struct ByDigest {
    digest: [u8; 32],
    name: Arc<str>,
    body: PhantomData<fn() -> Lines>,
}

/// The owner of the key, in the extensions of the request.
#[derive(Clone)]
struct Owner(#[expect(dead_code, reason = "for the services inside")] Arc<str>);

impl ByDigest {
    fn new(hex: &str) -> Self {
        let byte = |place: usize| u8::from_str_radix(&hex[2 * place..2 * place + 2], 16);
        Self {
            digest: std::array::from_fn(|place| byte(place).expect("hex digits")),
            name: "ada".into(),
            body: PhantomData,
        }
    }

    fn is_known(&self, headers: &mut HeaderMap) -> bool {
        let value = headers.remove(AUTHORIZATION);
        let key = value
            .as_ref()
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        key.is_some_and(|key| <[u8; 32]>::from(Sha256::digest(key)) == self.digest)
    }
}

impl<B> ValidateRequest<B> for ByDigest {
    type ResponseBody = Lines;

    fn validate(&mut self, request: &mut Request<B>) -> Result<(), Response<Lines>> {
        if self.is_known(request.headers_mut()) {
            request.extensions_mut().insert(Owner(self.name.clone()));
            return Ok(());
        }
        let mut answer = Response::new(Lines::default());
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        Err(answer)
    }
}
