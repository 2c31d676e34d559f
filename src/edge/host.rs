//! By which names a listener on loopback may be called: Ollama's rules for `Host`.
//!
//! A web page can have its own name point to 127.0.0.1 (DNS rebinding); then it is of the same
//! origin as the server, and its name in `Host` is all that gives it away. Where clients have to
//! show a key such a page gets nothing, and the rule is not needed.

use std::net::IpAddr;

/// The names by which a listener on loopback may be called, beside those of this machine and its
/// private network.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    any: bool,
    exact: Vec<String>,
    /// Each with its dot, as in `.example.com`.
    endings: Vec<String>,
}

/// An entry of the list that is no name of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host: write its name without scheme and port (gateway.example), *.example.com for all names below one, or * for all"
)]
pub struct InvalidHost(String);

impl Hosts {
    /// All names: the rule is off.
    pub fn any() -> Self {
        Self {
            any: true,
            ..Self::default()
        }
    }

    /// These names: of a host each, or `*.` and a name for all below it, or `*`.
    ///
    /// # Errors
    /// An entry is none of these.
    pub fn with<I>(entries: I) -> Result<Self, InvalidHost>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut hosts = Self::default();
        for entry in entries {
            let entry = entry.as_ref().trim().to_ascii_lowercase();
            match entry.strip_prefix('*') {
                Some("") => hosts.any = true,
                Some(ending) if ending.strip_prefix('.').is_some_and(is_name) => {
                    hosts.endings.push(ending.to_owned());
                }
                None if is_name(&entry) => hosts.exact.push(entry),
                _ => match entry.parse::<IpAddr>() {
                    Ok(ip) => hosts.exact.push(ip.to_string()),
                    Err(_) => return Err(InvalidHost(entry)),
                },
            }
        }
        Ok(hosts)
    }

    /// Whether a listener on loopback answers to this authority. `machine` is this machine's name.
    pub(super) fn allow(&self, authority: &str, machine: Option<&str>) -> bool {
        self.any || is_local(authority, machine) || self.name(authority)
    }

    fn name(&self, authority: &str) -> bool {
        if self.exact.is_empty() && self.endings.is_empty() {
            return false;
        }
        let host = without_port(authority).trim_matches(['[', ']']);
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        self.exact.contains(&host) || self.endings.iter().any(|ending| host.ends_with(ending))
    }
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        !label.is_empty() && label.bytes().all(plain)
    };
    text.split('.').all(is_label)
}

fn is_local(authority: &str, machine: Option<&str>) -> bool {
    let host = without_port(authority);
    if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
        return is_local_ip(ip);
    }
    let host = host.to_ascii_lowercase();
    host.is_empty()
        || host == "localhost"
        || machine.is_some_and(|machine| machine.eq_ignore_ascii_case(&host))
        || [".localhost", ".local", ".internal"]
            .iter()
            .any(|end| host.ends_with(end))
}

fn is_local_ip(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let private = match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    private || ip.is_loopback() || ip.is_unspecified()
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && !host.contains(':') => host,
        Some((host, _)) if host.ends_with(']') => host,
        _ => authority,
    }
}

/// This machine's name, where the system shows it.
pub(super) fn machine_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
