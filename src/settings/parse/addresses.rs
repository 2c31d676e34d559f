//! Parsers of addresses: listeners, servers with their credentials, proxies and networks.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use llamatower_layers::api_key::is_key_name;

use super::{Parsed, items, list, plain};
use crate::edge::{Hosts, ListenAddr, Origins, TrustedProxies};
use crate::ollama::upstream::{Address, Authorities, Authorization, has_user};
use crate::settings::files::absolute;
use crate::settings::values::ServerName;

pub(in crate::settings) fn addresses(text: &str) -> Parsed<Vec<ListenAddr>> {
    let found: Vec<ListenAddr> = list(plain)(text)?;
    let mut places = found.iter().enumerate();
    match places.find(|(index, address)| found[..*index].contains(address)) {
        Some((_, twice)) => Err(format!("{twice} is listed twice")),
        None => Ok(found),
    }
}

/// The servers, each once. Two spellings of one address are an error, because the server would
/// count twice.
pub(in crate::settings) fn backends(text: &str) -> Parsed<Vec<Address>> {
    without_user(text)?;
    let mut found: Vec<(Address, &str)> = Vec::new();
    for item in items(text) {
        if item.contains(char::is_whitespace) {
            return Err("an address has a space in it; write commas between addresses".to_owned());
        }
        let address = backend(item)?;
        match found
            .iter()
            .find(|(known, _)| known.is_same_server(&address))
        {
            Some((_, known)) if *known == item => {
                return Err(format!("{item} is listed twice; list each server once"));
            }
            Some((_, known)) => {
                return Err(format!(
                    "{known} and {item} are the same server; list each server once"
                ));
            }
            None => found.push((address, item)),
        }
    }
    match found.is_empty() {
        true => Err("it contains no server".to_owned()),
        false => Ok(found.into_iter().map(|(address, _)| address).collect()),
    }
}

/// The address of one server.
pub(in crate::settings) fn backend(text: &str) -> Parsed<Address> {
    without_user(text)?;
    plain(text)
}

/// A password in an address may contain commas. A text with an @ is not split, because a part of
/// the password could be shown.
pub(in crate::settings) fn without_user(text: &str) -> Parsed<()> {
    match has_user(text) {
        true => Err(
            "an address must not contain a user name or a password (it has an @); \
             LLAMATOWER_BACKEND_TOKENS takes them"
                .to_owned(),
        ),
        false => Ok(()),
    }
}

/// The name of a server in another setting; it is looked up when all settings are read.
pub(in crate::settings) fn server_name(text: &str) -> Parsed<ServerName> {
    without_user(text)?;
    Ok(text.trim().into())
}

/// The credentials of each server, as in `gpu-1=TOKEN, gpu-2:8080=basic USER:PASSWORD`.
pub(in crate::settings) fn tokens(text: &str) -> Parsed<Vec<(ServerName, Authorization)>> {
    let token = |(index, item): (usize, &str)| {
        // A text that is not a server's name may be a token whose server was forgotten, and is not
        // shown.
        let parts = item.split_once('=').filter(|(name, token)| {
            plain::<Address>(name).is_ok() && !token.trim_matches(['=', ' ']).is_empty()
        });
        let (name, token) =
            parts.ok_or(format!("item {} must have the form gpu-1=TOKEN", index + 1))?;
        let name = server_name(name)?;
        let token = plain(token).map_err(|reason| format!("the token for {name}: {reason}"))?;
        Ok((name, token))
    };
    items(text).enumerate().map(token).collect()
}

/// The certificate authorities in a file.
pub(in crate::settings) fn authorities(path: &str) -> Parsed<Authorities> {
    let cannot = |error| {
        format!(
            "the file{} cannot be read: {error}",
            absolute(Path::new(path))
        )
    };
    let pem = std::fs::read(path).map_err(cannot)?;
    Authorities::from_pem(&pem).map_err(|error| format!("the file {error}"))
}

pub(in crate::settings) fn origins(text: &str) -> Parsed<Origins> {
    Origins::with(items(text)).map_err(|error| error.to_string())
}

pub(in crate::settings) fn hosts(text: &str) -> Parsed<Hosts> {
    Hosts::with(items(text)).map_err(|error| error.to_string())
}

pub(in crate::settings) fn trusted_proxies(text: &str) -> Parsed<TrustedProxies> {
    TrustedProxies::with(items(text)).map_err(|error| error.to_string())
}

/// A DNS server by its address; the default port is 53.
pub(in crate::settings) fn dns_server(text: &str) -> Parsed<SocketAddr> {
    let ip = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    ip.or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} must be an address like 10.0.0.2 or 127.0.0.1:8600"))
}

/// Networks with their names, like `10.1.0.0/16=lab, fd00:1::7=buildbot`. Each network has one name.
pub(in crate::settings) fn networks(text: &str) -> Parsed<Vec<(IpNet, Arc<str>)>> {
    let mut found: Vec<(IpNet, Arc<str>)> = Vec::new();
    for item in items(text) {
        let (network, name) = item
            .split_once('=')
            .ok_or(format!("{item:?} is not like 10.1.0.0/16=lab"))?;
        let (network, name) = (network.trim(), name.trim());
        let network = network
            .parse::<IpNet>()
            .or_else(|_| {
                network
                    .parse()
                    .map(|ip: IpAddr| IpNet::from(ip.to_canonical()))
            })
            .map_err(|_| {
                format!("{network:?} is neither a network like 10.1.0.0/16 nor an address")
            })?;
        if !is_key_name(name) {
            return Err(format!(
                "{name:?} cannot be a name: write 1 to 64 of letters, digits and - _ . @"
            ));
        }
        let network = network.trunc();
        match found.iter().find(|(known, _)| *known == network) {
            Some((_, known)) if **known != *name => {
                return Err(format!("{network} has two names: {known} and {name}"));
            }
            Some(_) => return Err(format!("{network} is listed twice")),
            None => found.push((network, name.into())),
        }
    }
    Ok(found)
}
