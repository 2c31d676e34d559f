//! Addresses that cannot be listened on together, or that lead to the gateway itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Severity;
use crate::edge::ListenAddr;
use crate::ollama::upstream::Address;
use crate::settings::Settings;
use crate::settings::reader::Reader;

const LISTENERS: [&str; 2] = ["listen.public", "listen.admin"];

pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    let [public, admin] = LISTENERS;
    let of = |key: &'static str, addresses: &'_ [ListenAddr]| -> Vec<(&'static str, ListenAddr)> {
        match reader.is_sound(key) {
            true => addresses
                .iter()
                .map(|address| (key, address.clone()))
                .collect(),
            false => Vec::new(),
        }
    };
    let mut all = of(public, &settings.listen.public);
    all.extend(of(admin, &settings.listen.admin));
    overlaps(&all, reader);
    if reader.is_sound("backends.urls") {
        loops(&all, &settings.backends.urls, reader);
    }
    if reader.is_sound(public) && reader.is_sound("keys.api") {
        open_to_all(settings, reader);
    }
}

/// Two listeners on one port, as the system has it.
fn overlaps(all: &[(&'static str, ListenAddr)], reader: &mut Reader) {
    for (index, (key, address)) in all.iter().enumerate() {
        let before = all.iter().take(index);
        let Some((other, taken)) = before.clone().find(|(_, other)| overlap(other, address)) else {
            continue;
        };
        let reason = match other == key {
            true => format!("{taken} and {address} cannot be listened on together; leave one out"),
            false => format!(
                "{address} cannot be listened on together with {taken} of {}; give one of them \
                 another port",
                reader.subject(other)
            ),
        };
        reader.note(Severity::Error, key, &reason);
    }
}

fn overlap(one: &ListenAddr, other: &ListenAddr) -> bool {
    let (ListenAddr::Tcp(one), ListenAddr::Tcp(other)) = (one, other) else {
        return one == other;
    };
    // The system chooses a free port for 0.
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

/// Whether `[::]` takes IPv4 as well, which Linux lets the operator decide.
fn v6_takes_v4() -> bool {
    let only_v6 = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
    only_v6.map_or(true, |only_v6| only_v6.trim() == "0")
}

/// A server that is the gateway itself: each request would come back until there is no room.
fn loops(all: &[(&'static str, ListenAddr)], servers: &[Address], reader: &mut Reader) {
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
            reader.note(Severity::Error, "backends.urls", &reason);
        }
    }
}

fn leads_to(server: &Address, listener: SocketAddr) -> bool {
    let ip = match server.ip() {
        Some(ip) => ip.to_canonical(),
        // By whichever family a server listens on; the first one is tried first.
        None if server.host().eq_ignore_ascii_case("localhost") => match listener {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        },
        None => return false,
    };
    let listens = listener.ip().to_canonical();
    // To connect to 0.0.0.0 is to connect to this machine.
    let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let is_it = ip == listens
        || (is_here(ip) && listens.is_unspecified())
        || (ip.is_unspecified() && is_here(listens));
    server.port() == listener.port() && is_it
}

/// A listener that other machines reach and that asks for no key.
fn open_to_all(settings: &Settings, reader: &mut Reader) {
    // Where keys are required there is an error already.
    if !settings.keys.api.is_empty() || settings.keys.required {
        return;
    }
    let mut listeners = settings.listen.public.iter();
    let open = listeners.find(|address| match address {
        ListenAddr::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => false,
    });
    if let Some(address) = open {
        let reason = format!(
            "{address} can be reached from other machines and LLAMATOWER_API_KEYS holds no key: \
             every machine that reaches it may use every model; give it a key (`llamatower keygen` makes \
             one), and set LLAMATOWER_REQUIRE_KEYS=true so that it never starts without"
        );
        reader.note(Severity::Warning, "listen.public", &reason);
    }
}
