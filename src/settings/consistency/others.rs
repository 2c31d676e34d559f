//! Contradictions that are more than two values compared.

use llamatower_layers::api_key::{KeySet, Role};

use super::Severity::Warning;
use crate::settings::reader::Reader;
use crate::settings::{Secret, Settings};
use crate::telemetry::check_log_filter;

pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    limits_of_unknown_keys(settings, reader);
    shares_without_slots(settings, reader);
    bodies_without_memory(settings, reader);
    one_server_by_two_names(settings, reader);
    extra_paths(settings, reader);
    targets_of_no_line(settings, reader);
}

/// Limits that are set for a name which no key has. It is no error: a key that is taken back must
/// not keep the gateway from starting.
fn limits_of_unknown_keys(settings: &Settings, reader: &mut Reader) {
    let lists = ["keys.api", "keys.admin"];
    if !lists.into_iter().all(|key| reader.is_sound(key)) {
        return;
    }
    let keys = [
        (&settings.keys.api, Role::User),
        (&settings.keys.admin, Role::Admin),
    ];
    let keys = keys.map(|(lines, role)| {
        KeySet::from_lines(lines.iter().map(Secret::expose), role).unwrap_or_default()
    });
    for name in settings.limits.key_limits.keys() {
        let mut identities = keys.iter().flat_map(KeySet::identities);
        if !identities.any(|identity| identity.name == *name) {
            let reason = format!(
                "no key in {} or {} is named {name}, so that its limits apply to no one",
                reader.subject("keys.api"),
                reader.subject("keys.admin")
            );
            reader.note(Warning, "limits.key_limits", &reason);
        }
    }
}

/// Weights and priorities say who goes first among those that wait.
fn shares_without_slots(settings: &Settings, reader: &mut Reader) {
    let mut limits = settings.limits.key_limits.iter();
    let shared = limits.find(|(_, limits)| limits.share != Default::default());
    let are_counted = settings.backends.slots.are_counted() || !reader.is_sound("backends.slots");
    if let Some((name, _)) = shared.filter(|_| !are_counted) {
        let reason = format!(
            "the weight or priority of {name} has no effect without {}: nothing waits in the \
             gateway where slots are not counted",
            reader.named("backends.slots")
        );
        reader.note(Warning, "limits.key_limits", &reason);
    }
}

/// A body that is allowed and never fits. The defaults are not compared: a share of a small machine is
/// less than the default of the other.
fn bodies_without_memory(settings: &Settings, reader: &mut Reader) {
    let (body, memory) = ("limits.body", "limits.body_memory");
    let is_given = [body, memory]
        .into_iter()
        .any(|key| reader.texts.is_given(key));
    let is_sound = reader.is_sound(body) && reader.is_sound(memory);
    let has = settings.limits.body_memory.budget().capacity();
    if is_given && is_sound && settings.limits.body > has {
        let reason = format!(
            "it is above {}, which is {has} bytes here: a body between the two is always refused with \
             503 in place of 413; lower the first or raise the second",
            reader.named(memory)
        );
        reader.note(Warning, body, &reason);
    }
}

/// `localhost` and `127.0.0.1` with one port are one server in most cases, and counted twice.
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
                "{other} and {url} are this machine by two names: if one Ollama answers at both, \
                 it is sent twice the requests; name it once"
            );
            reader.note(Warning, "backends.urls", &reason);
        }
    }
}

/// Paths that the gateway knows keep their own rules.
fn extra_paths(settings: &Settings, reader: &mut Reader) {
    for path in settings.backends.needless_paths() {
        let reason =
            format!("the gateway knows {path} and keeps its own rules for it; leave it out");
        reader.note(Warning, "backends.extra_paths", &reason);
    }
}

/// Parts of the log's filter that have no effect.
fn targets_of_no_line(settings: &Settings, reader: &mut Reader) {
    for target in check_log_filter(&settings.telemetry.log).unwrap_or_default() {
        let reason = format!("no line of the log has the target {target:?}");
        reader.note(Warning, "telemetry.log", &reason);
    }
}
