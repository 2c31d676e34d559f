//! Detects variables that look like settings of the gateway but are not.

use std::net::{IpAddr, SocketAddr};

use super::environment::Environment;
use super::error::Problem;
use super::nearest::{is_synonym, nearest};
use super::setting::Setting;
use super::source::file_variable;

/// The prefixes of the gateway's variables, in any case, and a usual misspelling.
const PREFIXES: [&str; 2] = ["LLAMATOWER_", "LLAMA_TOWER_"];

/// The TOML file with settings.
pub(crate) const CONFIG_FILE: &str = "LLAMATOWER_CONFIG";

/// An administrator's key, for the commands that ask a running gateway.
pub(crate) const ADMIN_KEY: &str = "LLAMATOWER_ADMIN_KEY";

/// A client's key, for the command that passes requests on to a gateway.
pub(crate) const CLIENT_KEY: &str = "LLAMATOWER_KEY";

/// The variables that commands read. They are no settings, and the gateway accepts them, because
/// they are usually exported for all commands of a shell.
const OF_COMMANDS: [&str; 3] = [CONFIG_FILE, ADMIN_KEY, CLIENT_KEY];

/// All variables with the gateway's prefix that are not settings, without those that Kubernetes
/// sets for a Service.
pub(super) fn unknown_variables(
    environment: &Environment,
    settings: &'static [Setting],
) -> Vec<Problem> {
    let unknown = environment.names().filter(|name| {
        is_ours(name) && !is_known(name, settings) && !is_of_a_service(name, environment)
    });
    unknown.map(|name| problem(name, settings)).collect()
}

/// A variable of Ollama itself and of its clients that has a synonym of a setting.
const OF_OLLAMA: &str = "OLLAMA_HOST";

/// All variables that are similar to a setting without the prefix: they differ by one letter or in
/// case, have a synonym, or end with `_FILE`. They may also belong to another program.
pub(super) fn doubtful_variables(
    environment: &Environment,
    settings: &'static [Setting],
) -> Vec<Problem> {
    let others = |name: &&str| !is_ours(name) && !is_known(name, settings);
    let doubtful = environment.names().filter(others).filter_map(|name| {
        let upper = name.to_ascii_uppercase();
        let (stem, is_file) = match upper.strip_suffix("_FILE") {
            Some(stem) => (stem, true),
            None => (&*upper, false),
        };
        if stem == OF_OLLAMA {
            return None;
        }
        let is_meant = |variable: &str| {
            stem == variable || differs_by_one_letter(stem, variable) || is_synonym(stem, variable)
        };
        let mut without_prefix = settings.iter();
        let meant = without_prefix
            .find(|setting| !is_ours(setting.variable) && is_meant(setting.variable))?;
        let hint = did_you_mean(meant, is_file);
        Some(Problem::new(name, format!("it is not read; {hint}")))
    });
    doubtful.collect()
}

/// The variable that was probably meant, with or without `_FILE`.
fn did_you_mean(meant: &Setting, is_file: bool) -> String {
    let variable = meant.variable;
    match (is_file, file_variable(meant)) {
        (true, Some(file)) => format!("did you mean {file}?"),
        (true, None) => {
            format!("did you mean {variable}? It is not a secret, so it has no variable with _FILE")
        }
        (false, _) => format!("did you mean {variable}?"),
    }
}

fn differs_by_one_letter(name: &str, variable: &str) -> bool {
    name.len().abs_diff(variable.len()) <= 1 && strsim::damerau_levenshtein(name, variable) == 1
}

fn is_ours(name: &str) -> bool {
    let begins_with = |prefix: &str| {
        let start = name.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    PREFIXES.into_iter().any(begins_with)
}

fn is_known(name: &str, settings: &[Setting]) -> bool {
    let is_it = |setting: &Setting| {
        setting.variable == name || file_variable(setting).as_deref() == Some(name)
    };
    OF_COMMANDS.contains(&name) || settings.iter().any(is_it)
}

fn problem(name: &str, settings: &'static [Setting]) -> Problem {
    let upper = name.to_ascii_uppercase().replace('-', "_");
    let (stem, is_file) = match upper.strip_suffix("_FILE") {
        // The names of a few settings end with FILE.
        Some(stem) if !settings.iter().any(|setting| setting.variable == upper) => (stem, true),
        _ => (&*upper, false),
    };
    let hint = match nearest(stem, settings) {
        // The similar name is that of the gateway's list, in which a plain key does not belong.
        _ if stem == ADMIN_KEY => format!(
            "a command has its key in {ADMIN_KEY} or in the file of --key-file; the gateway has the \
             digests of keys in LLAMATOWER_ADMIN_KEYS"
        ),
        Some(meant) => did_you_mean(meant, is_file),
        None => "`llamatower reference` lists all settings".to_owned(),
    };
    Problem::new(name, format!("there is no such setting; {hint}"))
}

/// Whether Kubernetes has set this variable for a Service whose name begins with `llamatower`. A
/// pod gets such variables for every Service in its namespace (`enableServiceLinks`). One of them
/// always contains the Service's address.
fn is_of_a_service(name: &str, environment: &Environment) -> bool {
    let Some(value) = environment.get(name) else {
        return false;
    };
    let service = service_of(name, value);
    let host = service.and_then(|service| environment.get(&format!("{service}_SERVICE_HOST")));
    host.is_some_and(|host| host.parse::<IpAddr>().is_ok())
}

/// The Service, as spelled in variables, that a variable of this form and value belongs to.
fn service_of<'a>(name: &'a str, value: &str) -> Option<&'a str> {
    let is_port = value.parse::<u16>().is_ok();
    if let Some(service) = name.strip_suffix("_SERVICE_HOST") {
        return value.parse::<IpAddr>().is_ok().then_some(service);
    }
    if let Some((service, port_name)) = name.rsplit_once("_SERVICE_PORT") {
        let is_name = port_name.is_empty() || port_name.starts_with('_');
        return (is_name && is_port).then_some(service);
    }
    if let Some(service) = name.strip_suffix("_PORT").filter(|_| is_url(value)) {
        return Some(service);
    }
    let (service, rest) = name.rsplit_once("_PORT_")?;
    let mut parts = rest.splitn(3, '_');
    parts.next()?.parse::<u16>().ok()?;
    let protocol = parts.next().filter(|protocol| is_protocol(protocol))?;
    let is_valid = match parts.next() {
        None => is_url(value),
        Some("PROTO") => value.eq_ignore_ascii_case(protocol),
        Some("PORT") => is_port,
        Some("ADDR") => value.parse::<IpAddr>().is_ok(),
        Some(_) => false,
    };
    is_valid.then_some(service)
}

/// Like `tcp://10.43.0.7:3000`.
fn is_url(value: &str) -> bool {
    let parts = value.split_once("://");
    parts.is_some_and(|(protocol, address)| {
        is_protocol(protocol) && address.parse::<SocketAddr>().is_ok()
    })
}

fn is_protocol(word: &str) -> bool {
    ["tcp", "udp", "sctp"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}
