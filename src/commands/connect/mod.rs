//! `llamatower connect`: listens on this machine like an Ollama, and passes requests on to a gateway
//! with a key. Ollama's command line and many editors cannot send a key of their own.
//!
//! Every program of this machine can use the key in this way, as it could use an Ollama. Web pages
//! cannot, by the edge's rules for `Host` and `Origin`, and other machines cannot, because it listens on
//! loopback only.

mod gateway;
mod greeting;
mod service;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use llamatower_layers::live::Live;

use crate::commands::arguments::Exit;
use crate::commands::manage::{one_key, read_key};
use crate::edge::{Audience, BindError, Edge, EdgeConfig, Hosts, ListenAddr, Origins, Shutdown};
use crate::ollama::upstream::{Address, Authorization};
use crate::settings::{CLIENT_KEY, Environment};
use gateway::{Gateway, NotReady};

/// Where Ollama listens by default, and where its clients look for it.
const OLLAMAS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 11434);

/// How long responses under way have to end after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(2);

/// The arguments of `llamatower connect`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ConnectArguments {
    /// The gateway's address for clients, with http:// or https:// before it
    pub url: String,
    /// The address to listen on; a loopback address of this machine.
    #[arg(long, value_name = "ADDRESS", default_value_t = OLLAMAS)]
    pub listen: SocketAddr,
    /// A file with the key; by default the key is in LLAMATOWER_KEY.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A PEM file of certificate authorities to trust for https, besides those of the system.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The origin of a web page that may call, besides those of Ollama's defaults (pages of this
    /// machine, and applications); can be given more than once.
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Vec<String>,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// An argument or the key.
    #[error("{0}")]
    Arguments(String),
    #[error("{0}")]
    Bind(String),
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ConnectError {
    /// The exit code of the program.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Arguments(_) => Exit::WrongSetting,
            Self::Bind(_) => Exit::CannotListen,
            Self::NotReady(_) | Self::Io(_) => Exit::Failed,
        }
    }
}

/// Listens until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: &ConnectArguments) -> Result<(), ConnectError> {
    let config = edge_config(arguments).map_err(ConnectError::Arguments)?;
    let (gateway, has_key) = gateway_of(arguments).map_err(ConnectError::Arguments)?;
    let edge = Edge::bind(config).await.map_err(taken)?;
    let shutdown = Shutdown::on_signals()?;
    let offer = gateway.ask(has_key).await?;
    let text = greeting::text(&gateway, &edge.local_addrs(), has_key, &offer);
    // Nobody may read it; the clients are what matters.
    let _ = io::stdout().write_all(text.as_bytes());
    for warning in greeting::warnings(&gateway, has_key) {
        eprintln!("llamatower: warning: {warning}");
    }
    let service = service::service(&gateway, edge.cutoff());
    edge.serve(service, shutdown).await;
    Ok(())
}

fn edge_config(arguments: &ConnectArguments) -> Result<EdgeConfig, String> {
    let listen = arguments.listen;
    if !listen.ip().to_canonical().is_loopback() {
        return Err(format!(
            "--listen {listen}: it is not an address of this machine alone (loopback), so that others could \
             use your key; give them keys of their own"
        ));
    }
    if let Some(any) = arguments.origin.iter().find(|origin| origin.trim() == "*") {
        return Err(format!(
            "--origin {any}: every web page could use your key; name the pages that may"
        ));
    }
    let origins = Origins::with(&arguments.origin);
    Ok(EdgeConfig {
        listen: vec![ListenAddr::Tcp(listen)],
        origins: origins.map_err(|error| format!("--origin: {error}"))?,
        // A page whose name was made to resolve to this machine is refused.
        hosts: Live::new(Hosts::default()),
        audience: Audience::Programs,
        trusts_local_peers: true,
        body_timeout: None,
        drain_timeout: DRAIN,
        endpoints: Some(service::endpoints().into()),
        ..EdgeConfig::default()
    })
}

fn gateway_of(arguments: &ConnectArguments) -> Result<(Gateway, bool), String> {
    let url = &arguments.url;
    let address: Address = url.parse().map_err(|error| format!("{error}"))?;
    if address.is_openai() {
        return Err(format!(
            "{url}: it must begin with https:// or http://, and be the address of a gateway"
        ));
    }
    if leads_to(&address, arguments.listen) {
        return Err(format!(
            "{url} is the address to listen on ({}); give the address of the gateway",
            arguments.listen
        ));
    }
    let key = key(arguments)?;
    let has_key = key.is_some();
    let authorities = match &arguments.ca {
        Some(path) => {
            let pem = std::fs::read(path)
                .map_err(|error| format!("--ca {}: it cannot be read: {error}", path.display()))?;
            let authorities = crate::ollama::upstream::Authorities::from_pem(&pem);
            authorities.map_err(|error| format!("--ca {}: the file {error}", path.display()))?
        }
        None => crate::ollama::upstream::Authorities::default(),
    };
    let trust = match address.is_https() {
        true => Some(authorities.trust()?),
        false => None,
    };
    Ok((Gateway::new(address, key, trust), has_key))
}

/// The key is never an argument: other users of the machine could see it there.
fn key(arguments: &ConnectArguments) -> Result<Option<Authorization>, String> {
    let environment = Environment::of_process();
    let (source, text) = read_key(arguments.key_file.as_deref(), CLIENT_KEY, &environment)?;
    let Some(text) = text else {
        return Ok(None);
    };
    let key = one_key(&text).and_then(|key| format!("bearer {key}").parse().ok());
    let key = key.ok_or_else(|| {
        format!(
            "{source} must contain one key: the key alone, or the output of `llamatower keygen`"
        )
    })?;
    Ok(Some(key))
}

/// Whether requests would come back.
fn leads_to(address: &Address, listen: SocketAddr) -> bool {
    let is_here = match address.ip() {
        Some(ip) => ip.to_canonical().is_loopback() || ip.is_unspecified(),
        None => address.host().eq_ignore_ascii_case("localhost"),
    };
    is_here && address.port() == listen.port()
}

/// Tells who probably has the address.
fn taken(error: BindError) -> ConnectError {
    let is_taken = error
        .io_error()
        .is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    ConnectError::Bind(match (is_taken, error.address()) {
        (true, ListenAddr::Tcp(address)) if address.port() == OLLAMAS.port() => format!(
            "cannot listen on {address}: another process listens there, probably an Ollama on this machine; \
             stop it (systemctl stop ollama, or quit the application), or choose another address with \
             --listen 127.0.0.1:11435 and set OLLAMA_HOST=127.0.0.1:11435 for clients"
        ),
        _ => error.to_string(),
    })
}
