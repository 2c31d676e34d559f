//! Which `Host` values a loopback listener accepts: Ollama's rules.
//!
//! A web page can make its own name resolve to 127.0.0.1 (DNS rebinding). The browser then treats
//! the server as the page's own origin, and only the `Host` header shows the page's name. Where
//! clients need an API key, such a page gets nothing, and the rule is not needed.

use std::net::IpAddr;

/// The names that a loopback listener accepts, in addition to those of this machine and its private
/// network.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    any: bool,
    exact: Vec<String>,
    /// Each with its leading dot, as in `.example.com`.
    endings: Vec<String>,
}

/// The entry is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host: write its name without scheme and port (gateway.example), *.example.com for all names below one, or * for all"
)]
pub struct InvalidHost(String);

impl Hosts {
    /// Accepts all names: the rule is off.
    pub fn any() -> Self {
        Self {
            any: true,
            ..Self::default()
        }
    }

    /// The same names without `*`.
    pub fn without_any(self) -> Self {
        Self { any: false, ..self }
    }

    /// Accepts these names: a host name, `*.` and a name for all names below it, or `*` for all.
    ///
    /// # Errors
    /// An entry has none of these forms.
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

    /// Whether a loopback listener accepts this authority. `machine` is this machine's name.
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

/// This machine's name, if the system provides it.
pub(crate) fn machine_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
