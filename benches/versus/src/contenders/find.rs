//! Finds the installed proxies and their versions.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use llamatower_proxies::{on_path, version_of};

use super::{Contender, Kind, LITELLM_OFFLINE, OLLAMA, RequestBuffering};
use crate::{
    Args, Error,
    cpu::{self, Priority},
    observed::Observers,
    shapes::Dialect,
    shared::Limits,
};

/// The installed contenders, and sentences about the missing ones.
pub(crate) fn find(args: &Args) -> Result<(Vec<Contender>, Vec<String>), Error> {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    let runs_first = cpu::can_run_first(args.proxy_core);
    let mut add = |name, kind, program: Option<PathBuf>| {
        if !args.wants(name) {
            return;
        }
        let Some(program) = program else {
            notes.push(format!("{name} is not installed here and was left out."));
            return;
        };
        let version = match kind {
            Kind::Direct | Kind::PlainHyper => "of this build".to_owned(),
            Kind::Nginx(_) | Kind::Haproxy => printed_version(&program, "-v"),
            Kind::Llamatower(_) | Kind::Litellm => printed_version(&program, "--version"),
            Kind::Portkey => portkey_version(&program),
        };
        found.push(Contender {
            name,
            version,
            kind,
            program,
            core: args.proxy_core,
            dialect: match kind {
                Kind::Litellm | Kind::Portkey => Dialect::OpenAi,
                _ => Dialect::Ollama,
            },
            servers: OLLAMA,
            observers: Observers::Nobody,
            limits: Limits::None,
            tls: None,
            // With that priority, threads of one program that wait for each other make no progress.
            priority: if runs_first && !matches!(kind, Kind::Litellm | Kind::Portkey) {
                Priority::First
            } else {
                Priority::Usual
            },
        });
    };
    let this = env::current_exe()?;
    add("direct", Kind::Direct, Some(this.clone()));
    add(
        "nginx",
        Kind::Nginx(RequestBuffering::Off),
        on_path("nginx"),
    );
    add(
        "nginx buffering",
        Kind::Nginx(RequestBuffering::OneMebibyte),
        on_path("nginx"),
    );
    add("haproxy", Kind::Haproxy, on_path("haproxy"));
    add("llamatower", Kind::Llamatower("warn"), args.gateway.clone());
    if args.gateway_base.is_some() {
        add(
            "llamatower-base",
            Kind::Llamatower("warn"),
            args.gateway_base.clone(),
        );
    }
    add(
        "llamatower+log",
        Kind::Llamatower("info"),
        args.gateway.clone(),
    );
    add("plain hyper", Kind::PlainHyper, Some(this));
    add(
        "LiteLLM",
        Kind::Litellm,
        args.litellm.clone().or_else(|| on_path("litellm")),
    );
    add("Portkey", Kind::Portkey, args.portkey.clone());
    if !runs_first {
        notes.push(
            "Proxies were not allowed to run before other processes on their core (`chrt --fifo`), \
             so pauses by other processes and the hypervisor are part of their latencies."
                .to_owned(),
        );
    }
    Ok((found, notes))
}

/// The version that a program prints.
fn printed_version(program: &Path, question: &str) -> String {
    let mut command = Command::new(program);
    version_of(command.arg(question).env(LITELLM_OFFLINE, "True"))
}

/// The version in the `package.json` of Portkey, and that of node.
fn portkey_version(server: &Path) -> String {
    let package = server
        .parent()
        .and_then(Path::parent)
        .map(|dir| dir.join("package.json"));
    let text = package
        .and_then(|file| fs::read_to_string(file).ok())
        .unwrap_or_default();
    let version = text
        .split_once("\"version\"")
        .and_then(|(_, rest)| rest.split('"').nth(1));
    format!(
        "{}, node {}",
        version.unwrap_or("unknown"),
        printed_version(Path::new("node"), "--version")
    )
}
