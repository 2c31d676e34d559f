//! By which names a listener on loopback may be called: Ollama's rules for `Host`.
//!
//! A web page can have its own name point to 127.0.0.1 (DNS rebinding); then it is of the same
//! origin as the server, and its name in `Host` is all that gives it away.

use std::net::IpAddr;

/// Whether a listener on loopback answers to this authority. `machine` is this machine's name.
pub(super) fn is_local(authority: &str, machine: Option<&str>) -> bool {
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
