//! Rules that turn the facts of servers into findings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use llamatower_layers::model_alias::Candidate;

use super::report::Level::{Error, Note, Warning};
use super::report::Report;
use super::server::{Answers, Facts};
use super::{Options, cloud, slots, unreachable};
use crate::ollama::fleet::short_digest;
use crate::settings::Settings;

/// Clock differences above this are reported, in seconds.
const CLOCKS_DIFFER: i64 = 30;

pub(super) fn apply(
    settings: &Settings,
    options: &Options,
    servers: &[Facts],
    report: &mut Report,
) {
    for server in servers {
        match &server.answers {
            Ok(answers) => slow_answers(settings, server, answers, report),
            Err(trouble) => unreachable::report(server, trouble, report),
        }
    }
    management_server(settings, servers, report);
    versions(servers, report);
    digests(servers, report);
    default_model(settings, servers, report);
    aliases(settings, servers, report);
    slots::report(settings, servers, report);
    memory(servers, report);
    loads(settings, servers, report);
    if let Some(model) = &options.load
        && servers.iter().all(|server| server.load.is_none())
    {
        let found = "it could not be loaded: no server that responds has it";
        let change = "name an installed model, as `ollama list` shows it";
        report.add(Error, "load_failed", model, found, change);
    }
}

/// The servers that responded.
fn answering(servers: &[Facts]) -> impl Iterator<Item = (&Facts, &Answers)> {
    let servers = servers.iter();
    servers.filter_map(|server| Some((server, server.answers.as_ref().ok()?)))
}

fn slow_answers(settings: &Settings, server: &Facts, answers: &Answers, report: &mut Report) {
    let (connect, probe) = (settings.timeouts.connect, settings.backends.probe_timeout);
    let slow = [
        (
            answers.first_answer,
            connect,
            "a first response",
            "LLAMATOWER_CONNECT_TIMEOUT",
        ),
        (
            answers.listing,
            probe,
            "the list of its models",
            "LLAMATOWER_PROBE_TIMEOUT",
        ),
    ];
    for (took, limit, what, setting) in slow {
        let level = match took {
            _ if took > limit => Error,
            _ if took > limit / 2 => Warning,
            _ => continue,
        };
        report.add(
            level,
            "slow_answer",
            &server.name,
            format!("{what} took {took:.0?}, and {setting} is {limit:?}"),
            format!("raise {setting}; otherwise the gateway treats the server as down"),
        );
    }
    let ahead = answers.clock_ahead.map_or(0, |ahead| ahead.as_secs());
    if ahead.abs() > CLOCKS_DIFFER {
        let direction = if ahead > 0 { "ahead of" } else { "behind" };
        report.add(
            Warning,
            "clocks_differ",
            &server.name,
            format!("its clock is {} s {direction} this machine's", ahead.abs()),
            "set both clocks by NTP: otherwise log times differ, and certificates may seem invalid",
        );
    }
    if answers.models.is_empty() {
        report.add(
            Warning,
            "no_model",
            &server.name,
            "it has no model",
            "pull one there, or remove the server from OLLAMA_URL",
        );
    }
}

fn management_server(settings: &Settings, servers: &[Facts], report: &mut Report) {
    if !settings.has_admin_keys() {
        return;
    }
    let host = settings.backends.management_host();
    let Some(address) = settings.backends.urls.get(host) else {
        return;
    };
    let mut its = servers
        .iter()
        .filter(|server| server.address.configured() == *address);
    if its.all(|server| server.answers.is_err()) {
        report.add(
            Error,
            "management_unreachable",
            "LLAMATOWER_MANAGEMENT_BACKEND",
            format!("models are managed on {address}, which does not respond"),
            "name a server that responds",
        );
    }
}

fn versions(servers: &[Facts], report: &mut Report) {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (server, answers) in answering(servers) {
        let Some(version) = &answers.version else {
            continue;
        };
        by_version.entry(version).or_default().push(&server.name);
    }
    if by_version.len() > 1 {
        report.add(
            Warning,
            "versions_differ",
            "OLLAMA_URL",
            format!("the servers have different versions: {}", listed(&by_version)),
            "install the same version of Ollama on all of them, because responses and routes differ between versions",
        );
    }
}

/// A request names a model, so clients would get different models at different times.
fn digests(servers: &[Facts], report: &mut Report) {
    let mut models: BTreeMap<String, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for (server, answers) in answering(servers) {
        for model in answers
            .models
            .iter()
            .filter(|model| !model.digest.is_empty())
        {
            let by_digest = models.entry(model.name.to_string()).or_default();
            by_digest
                .entry(&model.digest)
                .or_default()
                .push(&server.name);
        }
    }
    for (model, by_digest) in models {
        if by_digest.len() < 2 {
            continue;
        }
        let short = by_digest.into_iter();
        let short = short.map(|(digest, servers)| (short_digest(digest), servers));
        report.add(
            Warning,
            "digests_differ",
            &model,
            format!("one name, different models: {}", listed(&short.collect())),
            format!("pull or create {model} again on all of them, or give it another name on some"),
        );
    }
}

/// `a (gpu-1, gpu-2); b (gpu-3)`.
fn listed(servers_by: &BTreeMap<&str, Vec<&str>>) -> String {
    let parts = servers_by.iter();
    let parts = parts.map(|(what, servers)| format!("{what} ({})", servers.join(", ")));
    parts.collect::<Vec<_>>().join("; ")
}

fn default_model(settings: &Settings, servers: &[Facts], report: &mut Report) {
    let Some(model) = settings.backends.default_model.as_deref() else {
        return;
    };
    // Servers that do not respond may have it.
    let level = match servers.iter().all(|server| server.answers.is_ok()) {
        true => Error,
        false => Warning,
    };
    let aliases = &settings.routing.aliases;
    let is_there = match aliases.find(model) {
        Some(alias) => {
            let models = aliases.in_listed_order(alias);
            has_one_of(servers, &models) || cloud::answers_missing(settings, model, &models)
        }
        None => {
            let is_there = servers.iter().any(|server| server.has(model));
            is_there || cloud::answers_missing(settings, model, &[])
        }
    };
    if !is_there {
        let have: BTreeSet<_> = answering(servers)
            .flat_map(|(_, answers)| answers.models.iter().map(|model| model.name.to_string()))
            .take(20)
            .collect();
        let have: Vec<_> = have.into_iter().collect();
        report.add(
            level,
            "default_model_missing",
            "DEFAULT_OLLAMA_MODEL",
            format!(
                "no server that responds has {model}; they have: {}",
                have.join(", ")
            ),
            format!("pull {model} on one of them, or name an installed model"),
        );
    }
}

/// An alias may be set up before its models are pulled.
fn aliases(settings: &Settings, servers: &[Facts], report: &mut Report) {
    let aliases = &settings.routing.aliases;
    for alias in aliases.iter() {
        let models = aliases.in_listed_order(alias);
        let is_there = has_one_of(servers, &models);
        if !is_there && !cloud::answers_missing(settings, alias.text(), &models) {
            let names: Vec<_> = models.iter().map(|model| &*model.text).collect();
            let (alias, names) = (alias.text(), names.join(", "));
            report.add(
                Warning,
                "alias_without_model",
                "LLAMATOWER_ALIASES",
                format!("no server that responds has a model of {alias} ({names})"),
                "pull one of them, or name an installed model",
            );
        }
    }
}

fn has_one_of(servers: &[Facts], models: &[Candidate]) -> bool {
    let mut models = models.iter();
    models.any(|model| servers.iter().any(|server| server.has(&model.text)))
}

/// The memory of slots is the only sign of their number that Ollama shows.
fn memory(servers: &[Facts], report: &mut Report) {
    let mut sizes: BTreeMap<(String, &str, u64), BTreeMap<u64, Vec<&str>>> = BTreeMap::new();
    for (server, answers) in answering(servers) {
        for model in answers.loaded.iter().filter(|model| model.size > 0) {
            let context = model.context_length.unwrap_or_default();
            let what = (model.name.to_string(), &*model.digest, context);
            let by_size = sizes.entry(what).or_default();
            by_size.entry(model.size).or_default().push(&server.name);
        }
    }
    for ((model, _, context), by_size) in sizes {
        if by_size.len() < 2 {
            continue;
        }
        let by_size: BTreeMap<String, Vec<&str>> = by_size
            .into_iter()
            .map(|(size, servers)| (format!("{size} bytes"), servers))
            .collect();
        let by_size = by_size
            .iter()
            .map(|(size, servers)| (&**size, servers.clone()));
        report.add(
            Warning,
            "slots_differ",
            model,
            format!(
                "with a context of {context} tokens it takes different memory: {}",
                listed(&by_size.collect())
            ),
            "compare OLLAMA_NUM_PARALLEL, OLLAMA_KV_CACHE_TYPE and OLLAMA_FLASH_ATTENTION of these \
             servers; where slots differ, write them for each in LLAMATOWER_SLOTS",
        );
    }
}

fn loads(settings: &Settings, servers: &[Facts], report: &mut Report) {
    const SETTING: &str = "LLAMATOWER_LOAD_TIMEOUT";
    for server in servers {
        let Some(load) = &server.load else { continue };
        let (name, model) = (&server.name, &load.model);
        let took = match &load.took {
            Ok(took) if load.was_loaded => {
                let found = format!("{model} was in memory already; it responded in {took:.1?}");
                report.add(Note, "load_time", name, found, "");
                continue;
            }
            Ok(took) => *took,
            Err(reason) => {
                let found = format!("{model} could not be loaded: {reason}");
                let change = "see Ollama's log on that server; it may have too little memory";
                report.add(Error, "load_failed", name, found, change);
                continue;
            }
        };
        let limit = settings.timeouts.load.unwrap_or(Duration::MAX);
        let level = match took {
            _ if took > limit => Error,
            _ if took > limit / 2 => Warning,
            _ => Note,
        };
        let change = match level {
            Note => String::new(),
            _ => format!(
                "raise {SETTING}: before its first byte a server loads the model and reads the prompt"
            ),
        };
        let found = match settings.timeouts.load {
            Some(limit) => format!("{model} was loaded in {took:.1?}, and {SETTING} is {limit:?}"),
            None => format!("{model} was loaded in {took:.1?}"),
        };
        report.add(level, "load_time", name, found, change);
    }
}
