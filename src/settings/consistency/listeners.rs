//! Listeners that exclude each other, servers that are the gateway itself, and gateways
//! that are open to all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::edge::ListenAddr;
use crate::ollama::upstream::Address;
use crate::settings::Settings;
use crate::settings::error::Severity;
use crate::settings::reader::Reader;

const LISTENERS: [&str; 3] = ["listen.public", "listen.admin", "listen.metrics"];

pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    let [public, admin, metrics] = LISTENERS;
    let of = |key: &'static str, addresses: &'_ [ListenAddr]| -> Vec<(&'static str, ListenAddr)> {
        match reader.is_valid(key) {
            true => addresses
                .iter()
                .map(|address| (key, address.clone()))
                .collect(),
            false => Vec::new(),
        }
    };
    let mut all = of(public, &settings.listen.public);
    all.extend(of(admin, &settings.listen.admin));
    all.extend(of(metrics, &settings.listen.metrics));
    overlaps(&all, reader);
    if reader.is_valid("backends.urls") {
        gateway_as_server(&all, &settings.backends.urls, reader);
    }
    if reader.is_valid(public) && reader.is_valid("keys.api") && reader.is_valid("keys.file") {
        open_gateway(settings, reader);
    }
}

/// Two listeners on the same port, by the system's rules.
fn overlaps(all: &[(&'static str, ListenAddr)], reader: &mut Reader) {
    for (index, (key, address)) in all.iter().enumerate() {
        let before = all.iter().take(index);
        let Some((other, taken)) = before.clone().find(|(_, other)| overlap(other, address)) else {
            continue;
        };
        let reason = match other == key {
            true => format!("the gateway cannot listen on both {taken} and {address}; remove one"),
            false => format!(
                "{address} conflicts with {taken} of {}; give one of them \
                 another port",
                reader.subject(other)
            ),
        };
        reader.report(Severity::Error, key, &reason);
    }
}

fn overlap(one: &ListenAddr, other: &ListenAddr) -> bool {
    let (ListenAddr::Tcp(one), ListenAddr::Tcp(other)) = (one, other) else {
        return one == other;
    };
    // For port 0 the system chooses a free port.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let takes = |wide: IpAddr, ip: IpAddr| match wide {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.is_ipv4(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => ip.is_ipv6() || v6_takes_v4(),
        _ => false,
    };
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    one == other || takes(one, other) || takes(other, one)
}

/// Whether `[::]` also accepts IPv4, which Linux makes configurable.
fn v6_takes_v4() -> bool {
    let only_v6 = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
    only_v6.map_or(true, |only_v6| only_v6.trim() == "0")
}

/// A server that is the gateway itself: each request would loop until resources run out.
fn gateway_as_server(all: &[(&'static str, ListenAddr)], servers: &[Address], reader: &mut Reader) {
    for server in servers {
        let listener = all.iter().find(|(_, address)| match address {
            ListenAddr::Tcp(address) => leads_to(server, *address),
            ListenAddr::Unix(_) => false,
        });
        if let Some((key, address)) = listener {
            let reason = format!(
                "{server} is the gateway itself, which listens on {address} ({}); name Ollama's \
                 own address, or let the gateway listen elsewhere",
                reader.subject(key)
            );
            reader.report(Severity::Error, "backends.urls", &reason);
        }
    }
}

fn leads_to(server: &Address, listener: SocketAddr) -> bool {
    let ip = match server.ip() {
        Some(ip) => ip.to_canonical(),
        // `localhost` resolves to either address family; the first is tried first.
        None if server.host().eq_ignore_ascii_case("localhost") => match listener {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        },
        None => return false,
    };
    let listens = listener.ip().to_canonical();
    // A connection to 0.0.0.0 reaches this machine.
    let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let is_it = ip == listens
        || (is_here(ip) && listens.is_unspecified())
        || (ip.is_unspecified() && is_here(listens));
    server.port() == listener.port() && is_it
}

/// A gateway that requires no key, although other machines can reach it or its other settings show
/// that it has other users. It is reported once.
fn open_gateway(settings: &Settings, reader: &mut Reader) {
    // If keys are required, there is already an error.
    if settings.has_user_keys() || settings.keys.required {
        return;
    }
    let mut listeners = settings.listen.public.iter();
    let open = listeners.find(|address| match address {
        ListenAddr::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => false,
    });
    let signs = [
        ("listen.trusted_proxies", "a proxy passes on requests"),
        ("listen.allowed_hosts", "the gateway has a name for others"),
        (
            "keys.admin",
            "administrators' keys restrict only management",
        ),
    ];
    let sign = signs
        .into_iter()
        .find(|(key, _)| reader.texts.is_given(key) && reader.is_valid(key));
    let (key, sign) = match (open, sign) {
        (Some(address), _) => (
            "listen.public",
            format!("{address} can be reached from other machines"),
        ),
        (None, Some((key, sign))) => (key, sign.to_owned()),
        (None, None) => return,
    };
    let reason = format!(
        "{sign} and LLAMATOWER_API_KEYS contains no key: everyone who reaches the gateway may use \
         every model; give it a key (`llamatower keygen` makes one), and set \
         LLAMATOWER_REQUIRE_KEYS=true so that it never starts without"
    );
    reader.report(Severity::Warning, key, &reason);
}
