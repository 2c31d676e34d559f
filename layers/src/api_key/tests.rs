use std::convert::Infallible;

use data_encoding::HEXLOWER;
use http::{HeaderMap, Method, Request, Response};
use sha2::{Digest, Sha256};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{EndpointTable, Failure, Operation, RouteMatch};

const USER: &str = "user-key";
const ADMIN: &str = "admin-key";

fn digest(key: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(key))
}

fn keys() -> KeySet {
    let line = |name: &str, key: &str| format!("{name}=sha256:{}", digest(key));
    let users = KeySet::from_lines([line("ada", USER).as_str()], Role::User).expect("valid");
    users.merge(KeySet::from_lines([line("root", ADMIN).as_str()], Role::Admin).expect("valid"))
}

/// The result of a request: its identity and remaining headers, or the kind of refusal.
async fn outcome(
    keys: KeySet,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Option<String>, HeaderMap), &'static str> {
    let mut request = Request::new(());
    let route = EndpointTable::ollama().look_up(&method, path);
    route.put_into(request.extensions_mut());
    *request.method_mut() = method;
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, value.parse().expect("a header value"));
    }
    let inner = service_fn(|request: Request<()>| async move {
        let identity = request.extensions().get::<Identity>();
        let name = identity.map(|identity| identity.name.to_string());
        Ok::<_, Infallible>(Response::new((name, request.headers().clone())))
    });
    match ApiKeyLayer::new(keys).layer(inner).oneshot(request).await {
        Ok(answer) => Ok(answer.into_body()),
        Err(error) => Err(Failure::find(&*error).expect("a failure").kind()),
    }
}

async fn chat(
    headers: &[(&'static str, &str)],
) -> Result<(Option<String>, HeaderMap), &'static str> {
    outcome(keys(), Method::POST, "/api/chat", headers).await
}

#[tokio::test]
async fn a_key_is_accepted_in_each_usual_field_and_removed() {
    for (name, value) in [
        ("authorization", format!("Bearer {USER}")),
        ("authorization", format!("bearer  {USER}")),
        ("authorization", basic(&format!("anybody:{USER}"))),
        ("authorization", basic(&format!("{USER}:"))),
        ("x-api-key", USER.to_owned()),
    ] {
        let (who, headers) = chat(&[(name, &value), ("accept", "*/*")])
            .await
            .expect(&value);
        assert_eq!(who.as_deref(), Some("ada"), "{value}");
        assert_eq!(
            headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
            ["accept"]
        );
    }
}

#[tokio::test]
async fn a_missing_or_wrong_key_is_refused() {
    assert_eq!(chat(&[]).await.map(drop), Err("missing_key"));
    assert_eq!(
        chat(&[("x-api-key", "guess")]).await.map(drop),
        Err("wrong_key")
    );
    assert_eq!(
        chat(&[("authorization", "Digest x")]).await.map(drop),
        Err("missing_key")
    );
}

fn basic(text: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(text))
}

#[tokio::test]
async fn one_known_key_is_enough_beside_other_credentials() {
    let bearer = format!("Bearer {USER}");
    let of_proxy = basic("proxy:its-own-password");
    for shown in [
        [("authorization", &*of_proxy), ("x-api-key", USER)],
        [("authorization", "Bearer dummy"), ("x-api-key", USER)],
        [("authorization", "Digest x"), ("x-api-key", USER)],
        [("authorization", &*bearer), ("x-api-key", "dummy")],
        [("authorization", &*bearer), ("x-api-key", USER)],
        [("authorization", &*of_proxy), ("authorization", &*bearer)],
        [("authorization", &*bearer), ("authorization", &*bearer)],
        [("x-api-key", "dummy"), ("x-api-key", USER)],
    ] {
        let (who, headers) = chat(&shown).await.expect(shown[0].1);
        assert_eq!(
            (who.as_deref(), headers.len()),
            (Some("ada"), 0),
            "{shown:?}"
        );
    }
}

#[tokio::test]
async fn two_different_known_keys_are_refused() {
    let bearer = format!("Bearer {USER}");
    let of_admin = basic(&format!("root:{ADMIN}"));
    for shown in [
        [("authorization", &*bearer), ("x-api-key", ADMIN)],
        [("authorization", &*of_admin), ("x-api-key", USER)],
        [("authorization", &*bearer), ("authorization", &*of_admin)],
    ] {
        assert_eq!(chat(&shown).await.map(drop), Err("ambiguous_credential"));
    }
    let both = [("authorization", &*bearer), ("x-api-key", ADMIN)];
    let open = outcome(keys(), Method::GET, "/api/version", &both).await;
    assert_eq!(open.expect("open").0, None);
}

#[tokio::test]
async fn several_keys_of_which_none_is_known_are_wrong() {
    let shown = [("authorization", "Bearer dummy"), ("x-api-key", "guess")];
    assert_eq!(chat(&shown).await.map(drop), Err("wrong_key"));
    let of_proxy = basic("proxy:its-own-password");
    let shown = [("authorization", &*of_proxy)];
    assert_eq!(chat(&shown).await.map(drop), Err("wrong_key"));
    let many = [("x-api-key", USER); 5];
    assert_eq!(chat(&many).await.map(drop), Err("ambiguous_credential"));
}

#[tokio::test]
async fn an_administrators_key_beside_a_proxys_credential_may_manage() {
    let of_proxy = basic("proxy:its-own-password");
    let shown = [("authorization", &*of_proxy), ("x-api-key", ADMIN)];
    let (who, _) = outcome(keys(), Method::POST, "/api/pull", &shown)
        .await
        .expect("allowed");
    assert_eq!(who.as_deref(), Some("root"));
}

#[tokio::test]
async fn the_first_requests_of_clients_are_open() {
    for path in ["/", "/api/version"] {
        let open = outcome(keys(), Method::GET, path, &[("x-api-key", "guess")]).await;
        assert_eq!(open.expect("open").0, None);
    }
}

#[tokio::test]
async fn management_needs_an_administrators_key() {
    let pull = |keys, headers| outcome(keys, Method::POST, "/api/pull", headers);
    assert_eq!(pull(keys(), &[]).await.map(drop), Err("management_refused"));
    assert_eq!(
        pull(keys(), &[("x-api-key", USER)]).await.map(drop),
        Err("management_refused")
    );
    assert_eq!(
        pull(keys(), &[("x-api-key", "guess")]).await.map(drop),
        Err("wrong_key")
    );
    let (who, _) = pull(keys(), &[("x-api-key", ADMIN)])
        .await
        .expect("allowed");
    assert_eq!(who.as_deref(), Some("root"));
    assert_eq!(
        pull(KeySet::default(), &[]).await.map(drop),
        Err("management_refused")
    );
    assert_eq!(
        pull(KeySet::default(), &[("x-api-key", "x")])
            .await
            .map(drop),
        Err("management_refused")
    );
}

#[tokio::test]
async fn a_request_that_is_refused_inside_is_identified_and_otherwise_the_same_for_everyone() {
    let inner = service_fn(|request: Request<()>| async move {
        let identity = request.extensions().get::<Identity>();
        let name = identity.map(|identity| identity.name.to_string());
        Ok::<_, Infallible>(Response::new(name))
    });
    let layer = ApiKeyLayer::new(keys()).with_refused_inside(|request| {
        !matches!(RouteMatch::of(request), Some(RouteMatch::Found { .. }))
    });
    for (method, path) in [(Method::GET, "/other"), (Method::POST, "/api/delete")] {
        for (key, name) in [(USER, Some("ada")), (ADMIN, Some("root")), ("guess", None)] {
            let mut request = Request::new(());
            let route = EndpointTable::ollama().look_up(&method, path);
            route.put_into(request.extensions_mut());
            *request.method_mut() = method.clone();
            let value = key.parse().expect("a header value");
            request.headers_mut().insert("x-api-key", value);
            let passed = layer.layer(inner).oneshot(request).await.expect("passes");
            assert_eq!(passed.into_body().as_deref(), name, "{path}");
        }
    }
}

/// A server may treat such a path as its own path for deleting a model.
#[tokio::test]
async fn an_unsafe_method_on_a_path_outside_of_the_table_needs_an_administrators_key() {
    for (method, path) in [
        (Method::DELETE, "/api/%64elete"),
        (Method::POST, "//api/pull"),
        (Method::PUT, "/api/delete"),
    ] {
        let user = [("x-api-key", USER)];
        let refused = outcome(keys(), method.clone(), path, &user).await;
        assert_eq!(refused.map(drop), Err("management_refused"), "{path}");
        let admin = [("x-api-key", ADMIN)];
        assert!(outcome(keys(), method, path, &admin).await.is_ok());
    }
    let unknown = outcome(keys(), Method::GET, "/other", &[("x-api-key", USER)]).await;
    assert!(unknown.is_ok());
}

#[tokio::test]
async fn without_configured_keys_every_request_passes_and_credentials_are_still_removed() {
    let bearer = [("authorization", "Bearer ollama"), ("x-api-key", "other")];
    let (who, headers) = outcome(KeySet::default(), Method::POST, "/api/chat", &bearer)
        .await
        .expect("open");
    assert_eq!((who, headers.len()), (None, 0));
}

#[test]
fn a_key_in_place_of_its_digest_is_refused_and_not_shown() {
    for line in [
        "hunter2",
        "ada=hunter2",
        "ada=sha256:abc",
        "a b=sha256:",
        "ada:sha256:00",
    ] {
        let error = KeySet::from_lines([line], Role::User)
            .expect_err(line)
            .to_string();
        assert!(
            !error.contains("hunter2") && error.contains("sha256sum"),
            "{error}"
        );
    }
}

#[test]
fn a_generated_key_is_accepted_with_its_line() {
    let (key, line) = generate_key("ada").expect("random bytes");
    assert!(key.starts_with("llt_") && key.len() == 47);
    let keys = KeySet::from_lines([line.as_str()], Role::User).expect("valid");
    assert!(keys.find(&key).is_some() && keys.find(&key[1..]).is_none());
    assert!(!format!("{keys:?}").contains(&line[11..]));
}

/// Whether a pull that passes carries its refusal, or else the kind of refusal.
async fn pull(keys: &KeySet, key: Option<&str>) -> Result<bool, &'static str> {
    let mut request = Request::new(());
    let route = EndpointTable::ollama().look_up(&Method::POST, "/api/pull");
    route.put_into(request.extensions_mut());
    if let Some(key) = key {
        let key = key.parse().expect("a header value");
        request.headers_mut().insert("x-api-key", key);
    }
    let inner = service_fn(|request: Request<()>| async move {
        let carried = request.extensions().get::<ManagementRefused>().is_some();
        Ok::<_, Infallible>(Response::new(carried))
    });
    let layer = ApiKeyLayer::new(keys.clone());
    let layer = layer.with_deferred(|operation| operation == Operation::Pull);
    match layer.layer(inner).oneshot(request).await {
        Ok(answer) => Ok(answer.into_body()),
        Err(error) => Err(Failure::find(&*error).expect("a failure").kind()),
    }
}

#[tokio::test]
async fn a_deferred_refusal_passes_only_for_clients_that_may_run_models() {
    let both = keys();
    assert_eq!(pull(&both, Some(USER)).await, Ok(true));
    assert_eq!(pull(&both, Some(ADMIN)).await, Ok(false));
    assert_eq!(pull(&both, Some("other")).await, Err("wrong_key"));
    assert_eq!(pull(&both, None).await, Err("management_refused"));
    let none = KeySet::default();
    assert_eq!(
        pull(&none, None).await,
        Ok(true),
        "every client may run models"
    );
    let line = format!("root=sha256:{}", digest(ADMIN));
    let admins = KeySet::from_lines([line.as_str()], Role::Admin).expect("valid");
    assert_eq!(
        pull(&admins, None).await,
        Ok(true),
        "every client may run models"
    );
    assert_eq!(
        pull(&admins, Some("other")).await,
        Ok(true),
        "a placeholder credential does not matter without keys for users"
    );
}

#[tokio::test]
async fn an_exempt_request_needs_no_users_key() {
    let inner = service_fn(|request: Request<()>| async move {
        let identity = request.extensions().get::<Identity>();
        let name = identity.map(|identity| identity.name.to_string());
        Ok::<_, Infallible>(Response::new(name))
    });
    let layer = ApiKeyLayer::new(keys()).with_exempt(|request| request.get::<u8>().is_some());
    let send = async |is_exempt: bool, path: &str, key: Option<&str>| {
        let mut request = Request::new(());
        let route = EndpointTable::ollama().look_up(&Method::POST, path);
        route.put_into(request.extensions_mut());
        if is_exempt {
            request.extensions_mut().insert(1_u8);
        }
        if let Some(key) = key {
            let key = key.parse().expect("a header value");
            request.headers_mut().insert("x-api-key", key);
        }
        match layer.clone().layer(inner).oneshot(request).await {
            Ok(answer) => Ok(answer.into_body()),
            Err(error) => Err(Failure::find(&*error).expect("a failure").kind()),
        }
    };
    assert_eq!(send(true, "/api/chat", None).await, Ok(None));
    assert_eq!(send(true, "/api/chat", Some("placeholder")).await, Ok(None));
    let ada = Ok(Some("ada".to_owned()));
    assert_eq!(send(true, "/api/chat", Some(USER)).await, ada);
    assert_eq!(send(false, "/api/chat", None).await, Err("missing_key"));
    let pull = send(true, "/api/pull", None).await;
    assert_eq!(pull, Err("management_refused"));
}

#[tokio::test]
async fn keys_are_replaced_for_existing_services() {
    let live = crate::live::Live::new(KeySet::default());
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
    let service = ApiKeyLayer::new(live.clone()).layer(inner);
    let send = async |key: Option<&str>| {
        let mut request = Request::new(());
        if let Some(key) = key {
            let key = key.parse().expect("a header value");
            request.headers_mut().insert("x-api-key", key);
        }
        service.clone().oneshot(request).await.is_ok()
    };
    assert!(send(None).await && send(Some(USER)).await);
    live.set(keys());
    assert!(!send(None).await && send(Some(USER)).await);
    live.set(KeySet::default());
    assert!(send(None).await);
}

#[test]
fn a_generated_line_is_accepted_whatever_name_it_has_or_the_name_is_refused() {
    for name in [
        "ada",
        "ada-2",
        "team_a.eu",
        "ada@example.org",
        "-",
        &"x".repeat(64),
    ] {
        let (key, line) = generate_key(name).expect(name);
        // The settings split several lines in this way.
        let lines = line.split([',', '\n']);
        let keys = KeySet::from_lines(lines, Role::User).expect(name);
        assert_eq!(keys.find(&key).map(|identity| &*identity.name), Some(name));
    }
    let too_long = "x".repeat(65);
    for name in [
        "",
        " ",
        "ada lovelace",
        "a=b",
        "a,b",
        "a\nb",
        "a:b",
        "a#b",
        "å",
        " ada",
        &too_long,
    ] {
        let error = generate_key(name).expect_err(name).to_string();
        assert!(error.contains("letters, digits"), "{name:?}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

/// The identity of a request from a client that was authenticated by this name in another way.
async fn authenticated(
    name: &str,
    access: Access,
    key: Option<&str>,
) -> Result<Option<String>, &'static str> {
    let mut request = Request::new(());
    request
        .extensions_mut()
        .insert(AuthenticatedAs(name.into()));
    if let Some(key) = key {
        let key = key.parse().expect("a header value");
        request.headers_mut().insert("x-api-key", key);
    }
    let inner = service_fn(|request: Request<()>| async move {
        let identity = request.extensions().get::<Identity>();
        Ok::<_, Infallible>(Response::new(
            identity.map(|identity| identity.name.to_string()),
        ))
    });
    let layer = ApiKeyLayer::new(keys()).with_rule(move |_| access);
    match layer.layer(inner).oneshot(request).await {
        Ok(answer) => Ok(answer.into_body()),
        Err(error) => Err(Failure::find(&*error).expect("a failure").kind()),
    }
}

#[tokio::test]
async fn a_client_that_was_authenticated_in_another_way_has_the_identity_of_the_key_with_its_name()
{
    for access in [Access::Open, Access::Anonymous, Access::User] {
        let ada = authenticated("ada", access, None).await;
        assert_eq!(ada, Ok(Some("ada".to_owned())), "{access:?}");
        // A library's placeholder is no key.
        let ada = authenticated("ada", access, Some("none")).await;
        assert_eq!(ada, Ok(Some("ada".to_owned())), "{access:?}");
        let root = authenticated("ada", access, Some(ADMIN)).await;
        assert_eq!(root, Ok(Some("root".to_owned())), "a key comes first");
    }
    let root = authenticated("root", Access::Admin, None).await;
    assert_eq!(root, Ok(Some("root".to_owned())));
    assert!(authenticated("ada", Access::Admin, None).await.is_err());
    // No key has this name.
    assert_eq!(authenticated("eve", Access::Open, None).await, Ok(None));
    let eve = authenticated("eve", Access::User, None).await;
    assert_eq!(eve, authenticated("", Access::User, None).await);
    assert!(eve.is_err());
}

fn ada(expires: Option<std::time::SystemTime>) -> Key {
    let key = Key::new("ada", KeyDigest::of(USER), Role::User).expect("a name");
    key.with_expiry(expires)
}

#[tokio::test]
async fn a_key_is_refused_from_its_expiry_on() {
    use std::time::{Duration, SystemTime};
    let now = SystemTime::now();
    let ask = async |keys: KeySet, path: &str, key: &str| {
        let answer = outcome(keys, Method::POST, path, &[("x-api-key", key)]).await;
        answer.map(|(who, _)| who)
    };
    let later = Some(now + Duration::from_secs(3600));
    let valid: KeySet = [ada(later)].into_iter().collect();
    assert!(valid.has_valid_key("ada"));
    let answer = ask(valid, "/api/chat", USER).await;
    assert_eq!(answer, Ok(Some("ada".to_owned())));

    let expired: KeySet = [ada(Some(now))].into_iter().collect();
    assert_eq!(expired.find(USER), None);
    assert!(!expired.has_valid_key("ada"));
    for path in ["/api/chat", "/api/delete"] {
        let answer = ask(expired.clone(), path, USER).await;
        assert_eq!(answer, Err("expired_key"), "{path}");
    }
    assert_eq!(
        ask(expired.clone(), "/api/chat", "other").await,
        Err("wrong_key")
    );
    // A certificate stands for the key with its name.
    let mut request = Request::new(());
    let name = AuthenticatedAs("ada".into());
    request.extensions_mut().insert(name);
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
    let layer = ApiKeyLayer::new(expired).with_rule(|_| Access::User);
    let answer = layer.layer(inner).oneshot(request).await;
    let error = answer.expect_err("the key has expired");
    assert_eq!(
        Failure::find(&*error).expect("a failure").kind(),
        "expired_key"
    );
}

#[tokio::test]
async fn one_valid_key_beside_an_expired_one_is_enough() {
    let old = ada(Some(std::time::SystemTime::UNIX_EPOCH));
    let new = Key::new("ada", KeyDigest::of("next"), Role::User).expect("a name");
    let keys: KeySet = [old, new].into_iter().collect();
    let both = [("x-api-key", USER), ("x-api-key", "next")];
    let answer = outcome(keys, Method::POST, "/api/chat", &both).await;
    assert_eq!(answer.expect("allowed").0.as_deref(), Some("ada"));
}

#[tokio::test]
async fn an_address_that_sends_wrong_keys_is_told_to_slow_down_but_a_valid_key_is_not() {
    use std::num::NonZeroU32;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    let seen = Arc::<Mutex<Vec<_>>>::default();
    let notes = seen.clone();
    let two = NonZeroU32::new(2).expect("above 0");
    let layer = ApiKeyLayer::new(keys())
        .with_failed_key_limit(two, Duration::from_secs(60))
        .with_failed_key_observer(move |failed| notes.lock().expect("open").push(failed.name()));
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
    let service = layer.layer(inner);
    let ask = async |last: u8, (name, value): (&'static str, &'static str)| {
        let mut request = Request::new(());
        let route = EndpointTable::ollama().look_up(&Method::POST, "/api/chat");
        route.put_into(request.extensions_mut());
        crate::ClientAddress([10, 0, 0, last].into()).put_into(request.extensions_mut());
        *request.method_mut() = Method::POST;
        let value = value.parse().expect("a header value");
        request.headers_mut().append(name, value);
        match service.clone().oneshot(request).await {
            Ok(_) => "allowed",
            Err(error) => {
                let failure = Failure::find(&*error).expect("a failure");
                let waits = failure.retry_after().is_some();
                assert_eq!(waits, failure.kind() == "too_many_failed_keys");
                failure.kind()
            }
        }
    };
    assert_eq!(ask(1, ("x-api-key", "wrong")).await, "wrong_key");
    assert_eq!(ask(1, ("authorization", "Bearer")).await, "missing_key");
    assert_eq!(ask(1, ("x-api-key", "wrong")).await, "too_many_failed_keys");
    assert_eq!(ask(1, ("x-api-key", USER)).await, "allowed");
    assert_eq!(ask(2, ("x-api-key", "wrong")).await, "wrong_key");
    assert_eq!(ask(1, ("accept", "*/*")).await, "missing_key");
    assert_eq!(
        *seen.lock().expect("open"),
        ["unknown", "malformed", "unknown", "unknown"]
    );
}

#[test]
fn a_digest_is_written_as_it_is_read_and_names_are_checked() {
    let digest = KeyDigest::of(USER);
    assert_eq!(digest.to_string().parse(), Ok(digest));
    assert_eq!(digest.to_string(), format!("sha256:{}", self::digest(USER)));
    for wrong in ["", USER, &self::digest(USER), "sha256:00"] {
        assert_eq!(wrong.parse::<KeyDigest>(), Err(InvalidDigest), "{wrong}");
    }
    assert!(Key::new("a b", digest, Role::User).is_err());
    assert!(!format!("{digest:?} {:?}", ada(None)).contains(&self::digest(USER)[..4]));
}
