//! The compared proxies: how to find, configure and start them.

mod config;

use std::{env, net::SocketAddr, path::PathBuf, process::Command};

use llamatower_proxies::{free_address, on_path, version_of};

use crate::{
    Args, Error,
    prompt::model_name,
    running::Running,
    scenario::{GREEDY, Scenario},
};

/// The kind of a contender.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Settings besides the addresses of the servers.
    Llamatower(Vec<(String, String)>),
    Nginx,
    Haproxy(Maxconn),
    OllamaMq,
    OllamaHerd,
}

/// Whether HAProxy knows how many requests a server serves at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Maxconn {
    Unset,
    Slots,
}

/// A proxy that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    kind: Kind,
    program: PathBuf,
}

/// The contender that ratios refer to.
pub(crate) const BASE: &str = "nginx";
/// Contenders that are measured only by name.
const BY_NAME: [&str; 1] = ["llamatower+slots"];
/// The names of all contenders.
pub(crate) const NAMES: [&str; 9] = [
    "nginx",
    "haproxy",
    "haproxy+maxconn",
    "ollamaMQ",
    "ollama-herd",
    "llamatower",
    "llamatower+slots",
    "llamatower+set",
    "llamatower-base",
];

/// The installed contenders, and sentences about the missing ones.
pub(crate) fn find(args: &Args) -> (Vec<Contender>, Vec<String>) {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    let mut add = |name: &'static str, kind: Kind, program: Option<PathBuf>| {
        let is_named = args.contender.iter().any(|wanted| wanted == name);
        let is_wanted = args.contender.is_empty() && !BY_NAME.contains(&name);
        if !is_named && !is_wanted {
            return;
        }
        let Some(program) = program else {
            notes.push(format!("{name} is not installed here and was left out."));
            return;
        };
        let question = match kind {
            Kind::Nginx | Kind::Haproxy(_) => "-v",
            _ => "--version",
        };
        let version = version_of(Command::new(&program).arg(question));
        found.push(Contender {
            name,
            version,
            kind,
            program,
        });
    };
    add("nginx", Kind::Nginx, on_path("nginx"));
    let haproxy = on_path("haproxy");
    add("haproxy", Kind::Haproxy(Maxconn::Unset), haproxy.clone());
    add("haproxy+maxconn", Kind::Haproxy(Maxconn::Slots), haproxy);
    let given = |file: &Option<PathBuf>, name| file.clone().or_else(|| on_path(name));
    add(
        "ollamaMQ",
        Kind::OllamaMq,
        given(&args.ollama_mq, "ollamaMQ"),
    );
    add(
        "ollama-herd",
        Kind::OllamaHerd,
        given(&args.ollama_herd, "herd"),
    );
    let gateway = |settings| Kind::Llamatower(settings);
    add("llamatower", gateway(Vec::new()), args.gateway.clone());
    let slots = crate::scenario::SLOTS.to_string();
    add(
        "llamatower+slots",
        gateway(vec![("LLAMATOWER_SLOTS".to_owned(), slots)]),
        args.gateway.clone(),
    );
    if !args.gateway_set.is_empty() {
        let settings = args.gateway_set.clone();
        add("llamatower+set", gateway(settings), args.gateway.clone());
    }
    if args.gateway_base.is_some() {
        add(
            "llamatower-base",
            gateway(Vec::new()),
            args.gateway_base.clone(),
        );
    }
    (found, notes)
}

impl Contender {
    /// Starts it in front of the servers and waits until it lists their models.
    pub(crate) async fn start(
        &self,
        scenario: &Scenario,
        servers: &[SocketAddr],
        speed: f64,
    ) -> Result<Running, Error> {
        let dir = tempfile::Builder::new()
            .prefix("llamatower-race-")
            .tempdir()?;
        let listen = free_address()?;
        let place = config::Place {
            dir: dir.path(),
            listen,
            servers,
            scenario,
            speed,
        };
        let commands = self.commands(&place)?;
        let mut running = Running::spawn(commands, listen, dir)?;
        let models: Vec<String> = (0..scenario.models).map(model_name).collect();
        let who = scenario.has_clients.then_some(GREEDY);
        let ready = running.lists(&models, who).await;
        ready.map_err(|why| format!("{}: {why}", self.name))?;
        if self.kind == Kind::OllamaHerd {
            running.has_nodes(servers.len()).await?;
        }
        Ok(running)
    }

    fn commands(&self, place: &config::Place<'_>) -> Result<Vec<Command>, Error> {
        let mut command = Command::new(&self.program);
        let port = place.listen.port().to_string();
        match &self.kind {
            Kind::Llamatower(settings) => {
                command.env_clear();
                command.env("PATH", env::var_os("PATH").unwrap_or_default());
                command.envs(place.llamatower());
                command.envs(settings.clone());
            }
            Kind::Nginx => place.nginx(&mut command)?,
            Kind::Haproxy(maxconn) => place.haproxy(*maxconn, &mut command)?,
            Kind::OllamaMq => {
                let file = place.write("appconf.yaml", &place.ollama_mq())?;
                command.current_dir(place.dir).arg("--no-tui");
                command.args(["--host", "127.0.0.1", "--port", &port]);
                command.arg("--model-config").arg(file);
            }
            Kind::OllamaHerd => {
                command.args(["--host", "127.0.0.1", "--port", &port]);
                command.args(["--log-level", "WARNING"]);
                command.envs(place.ollama_herd());
                let node = self.program.with_file_name("herd-node");
                let nodes = place.servers.iter().enumerate().map(|(nth, server)| {
                    let mut command = Command::new(&node);
                    command.args(["--node-id", &format!("node-{nth}")]);
                    command.args(["--ollama-host", &format!("http://{server}")]);
                    command.args(["--router-url", &format!("http://{}", place.listen)]);
                    command.args(["--log-level", "WARNING"]);
                    command.envs(place.ollama_herd());
                    command
                });
                return Ok(std::iter::once(command).chain(nodes).collect());
            }
        }
        Ok(vec![command])
    }
}
