//! Contradictions that need more than a comparison of two values.

use std::net::IpAddr;

use ipnet::IpNet;
use llamatower_layers::api_key::{KeySet, Role};

use crate::ollama::upstream::{Address, Authorization};
use crate::settings::error::Problem;
use crate::settings::error::Severity::Warning;
use crate::settings::parse::items;
use crate::settings::reader::Reader;
use crate::settings::{Secret, Settings};
use crate::telemetry::check_log_filter;

pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    limits_of_unknown_keys(settings, reader);
    shares_without_slots(settings, reader);
    bodies_without_memory(settings, reader);
    one_server_by_two_names(settings, reader);
    extra_paths(settings, reader);
    doubtful_log_filter(settings, reader);
    every_peer_is_trusted(reader);
    networks_of_others(settings, reader);
    key_of_the_cloud(settings, reader);
    cloud_in_clear_text(settings, reader);
    declared_models(settings, reader);
}

/// Declared models that no server gets.
fn declared_models(settings: &Settings, reader: &mut Reader) {
    let declared = &settings.declared;
    let is_synced = settings.backends.models_sync.is_some();
    if is_synced && declared.is_empty() {
        let reason =
            "it has no effect without a table [models] in the file; declare the models there";
        reader.report(Warning, "backends.models_sync", reason);
    }
    let servers = &settings.backends.urls;
    let ollamas: Vec<_> = servers.iter().filter(|url| !url.is_openai()).collect();
    for name in declared.by_server.keys() {
        let meant = Address::called(servers, name);
        if !meant.iter().any(|server| ollamas.contains(server)) {
            let consequence = match is_synced {
                true => "its models are pulled only",
                false => "`llamatower models sync` refuses it, except",
            };
            let reason = format!(
                "it is not an Ollama in OLLAMA_URL, so that {consequence} if a server with this name \
                 is discovered by DNS; correct the name, or remove the line"
            );
            let subject = format!("{name:?} in [models]");
            reader.warnings.push(Problem::new(subject, reason));
        }
    }
}

/// A key and prompts that anyone on the way can read.
fn cloud_in_clear_text(settings: &Settings, reader: &mut Reader) {
    let (cloud, key) = (&settings.cloud, "cloud.url");
    if cloud.when.is_on() && reader.is_valid(key) && !cloud.url.is_https() && is_public(&cloud.url)
    {
        let reason = "it is not https, so that GROQ_API_KEY and prompts cross public networks in \
                      clear text; write https://";
        reader.report(Warning, key, reason);
    }
}

/// Whether the server is probably beyond private networks. Of a name only its form is known.
fn is_public(address: &Address) -> bool {
    /// Endings of names that are not in the public DNS, and that of a Service in Kubernetes.
    const PRIVATE: [&str; 8] = [
        "localhost",
        "local",
        "internal",
        "lan",
        "home.arpa",
        "test",
        "intranet",
        "svc",
    ];
    match address.ip().map(|ip| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => {
            let [first, second, ..] = ip.octets();
            // 100.64.0.0/10 (RFC 6598) is that of overlay networks, too.
            let is_shared = first == 100 && second & 0xc0 == 64;
            let is_local = ip.is_private() || ip.is_link_local() || is_shared;
            !(is_local || ip.is_loopback() || ip.is_unspecified())
        }
        Some(IpAddr::V6(ip)) => {
            let is_local = ip.is_unique_local() || ip.is_unicast_link_local();
            !(is_local || ip.is_loopback() || ip.is_unspecified())
        }
        None => {
            let name = address.host().trim_end_matches('.').to_ascii_lowercase();
            let mut private = PRIVATE.into_iter();
            let is_private = private.any(|end| {
                let rest = name.strip_suffix(end);
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            });
            name.contains('.') && !is_private
        }
    }
}

/// A key that cannot be sent in a header.
fn key_of_the_cloud(settings: &Settings, reader: &mut Reader) {
    let key = settings.keys.groq.as_ref();
    let invalid = key.and_then(|key| key.expose().parse::<Authorization>().err());
    if let Some(reason) = invalid.filter(|_| settings.cloud.when.is_on()) {
        reader.wrong("keys.groq", reason);
    }
}

/// Limits for a key that does not exist. This is only a warning, because revoking a key must not
/// prevent a start.
fn limits_of_unknown_keys(settings: &Settings, reader: &mut Reader) {
    let lists = ["keys.api", "keys.admin", "keys.file"];
    if !lists.into_iter().all(|key| reader.is_valid(key)) {
        return;
    }
    let keys = [
        (&settings.keys.api, Role::User),
        (&settings.keys.admin, Role::Admin),
    ];
    let keys = keys.map(|(lines, role)| {
        KeySet::from_lines(lines.iter().map(Secret::expose), role).unwrap_or_default()
    });
    let limits = settings.limits.key_limits.keys();
    let limits = limits.map(|name| ("limits.key_limits", "limits have", name));
    let models = settings.limits.key_models.keys();
    let models = models.map(|name| ("limits.key_models", "models have", name));
    let opted_out = settings.cloud.keys_opt_out.iter();
    let opted_out = opted_out.map(|name| ("cloud.keys_opt_out", "entry has", name));
    let delegating = settings.keys.delegating.iter();
    let delegating = delegating.map(|name| ("keys.delegating", "entry has", name));
    let named = limits.chain(models).chain(opted_out).chain(delegating);
    for (key, what, name) in named {
        let mut identities = keys.iter().flat_map(KeySet::identities);
        let mut networks = settings.keys.networks.iter();
        let is_network = key != "keys.delegating" && networks.any(|(_, known)| known == name);
        let is_in_file = settings.keys_file.keys.contains_key(name);
        let is_known = is_network || is_in_file;
        if !is_known && !identities.any(|identity| identity.name == *name) {
            let reason = format!(
                "no key in {} or {} is named {name}, so its {what} no effect",
                reader.subject("keys.api"),
                reader.subject("keys.admin")
            );
            reader.report(Warning, key, &reason);
        }
    }
}

/// Weights and priorities only order waiting requests.
fn shares_without_slots(settings: &Settings, reader: &mut Reader) {
    let mut limits = settings.limits.key_limits.iter();
    let shared = limits.find(|(_, limits)| limits.share != Default::default());
    let are_counted = settings.backends.slots.are_counted() || !reader.is_valid("backends.slots");
    if let Some((name, _)) = shared.filter(|_| !are_counted) {
        let reason = format!(
            "the weight or priority of {name} has no effect without {}: no request waits in the \
             gateway where slots are not counted",
            reader.named("backends.slots")
        );
        reader.report(Warning, "limits.key_limits", &reason);
    }
}

/// A body that is allowed but never fits into memory. Defaults are not compared, because a default
/// share of a small machine can be below the other default.
fn bodies_without_memory(settings: &Settings, reader: &mut Reader) {
    let (body, memory) = ("limits.body", "limits.body_memory");
    let is_given = [body, memory]
        .into_iter()
        .any(|key| reader.texts.is_given(key));
    let is_valid = reader.is_valid(body) && reader.is_valid(memory);
    let has = settings.limits.body_memory.budget().capacity();
    if is_given && is_valid && settings.limits.body > has {
        let reason = format!(
            "it is above {}, which is {has} bytes here: a body larger than that is always refused with \
             503 in place of 413; lower the first or raise the second",
            reader.named(memory)
        );
        reader.report(Warning, body, &reason);
    }
}

/// `localhost` and `127.0.0.1` with the same port are usually one server, which would count twice.
fn one_server_by_two_names(settings: &Settings, reader: &mut Reader) {
    let local: Vec<_> = (settings.backends.urls.iter())
        .filter(|url| match url.ip() {
            Some(ip) => ip.to_canonical().is_loopback() || ip.is_unspecified(),
            None => url.host().eq_ignore_ascii_case("localhost"),
        })
        .collect();
    for (index, url) in local.iter().enumerate() {
        let mut before = local.iter().take(index);
        let same =
            before.find(|other| other.port() == url.port() && other.prefix() == url.prefix());
        if let Some(other) = same {
            let reason = format!(
                "{other} and {url} both mean this machine: if the same Ollama serves both, \
                 it is sent twice the requests; name it once"
            );
            reader.report(Warning, "backends.urls", &reason);
        }
    }
}

/// Known paths keep their own rules.
fn extra_paths(settings: &Settings, reader: &mut Reader) {
    for path in settings.backends.redundant_paths() {
        let reason = format!("{path} is already known and keeps its own rules; remove it");
        reader.report(Warning, "backends.extra_paths", &reason);
    }
}

/// Parts of the log filter that have no effect, or an unintended one.
fn doubtful_log_filter(settings: &Settings, reader: &mut Reader) {
    for reason in check_log_filter(&settings.telemetry.log).unwrap_or_default() {
        reader.report(Warning, "telemetry.log", &reason);
    }
}

/// Networks that contain all addresses of a family, alone or together.
fn every_peer_is_trusted(reader: &mut Reader) {
    let key = "listen.trusted_proxies";
    let text = reader.texts.get(key).map_or("", |text| &text.value);
    let networks: Vec<IpNet> = items(text).filter_map(|item| item.parse().ok()).collect();
    let mut networks = IpNet::aggregate(&networks).into_iter();
    if let Some(all) = networks.find(|network| network.prefix_len() == 0) {
        let reason = format!(
            "it contains all addresses ({all}): every client can claim any address with a header, \
             so that limits for addresses have no effect; list only your proxies"
        );
        reader.report(Warning, key, &reason);
    }
}

/// Named networks with addresses of the internet.
fn networks_of_others(settings: &Settings, reader: &mut Reader) {
    /// Loopback, private, shared and link-local networks (RFC 6890).
    const LOCAL: [&str; 9] = [
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ];
    let key = "keys.networks";
    let local: Vec<IpNet> = LOCAL.iter().filter_map(|text| text.parse().ok()).collect();
    let is_local = |network: &IpNet| local.iter().any(|known| known.contains(network));
    let mut networks = settings.keys.networks.iter();
    let public = networks.find(|(network, _)| !is_local(network));
    if let Some((network, name)) = public.filter(|_| reader.is_valid(key)) {
        let consequence = match settings.keys.networks_replace_keys {
            true => "anyone there may use the models without a key",
            false => "anyone there has this name and its limits",
        };
        let reason = format!(
            "{network} ({name}) is not a private network: {consequence}; name only networks that you know"
        );
        reader.report(Warning, key, &reason);
    }
}
