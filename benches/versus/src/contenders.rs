//! The compared proxies: how to find, configure and start them.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Args, Error,
    cores::LostTimeMeter,
    cpu::{self, Priority, Processes},
    observed::{Observers, Watching, until_no_trace_is_made},
    running::Running,
    shapes::Dialect,
    shared::{self, Limits, Redis},
    tls::Tls,
};

/// Without this, LiteLLM fetches prices from the internet at its start.
const LITELLM_OFFLINE: &str = "LITELLM_LOCAL_MODEL_COST_MAP";

/// What stands before the address of an Ollama server in the gateway's settings.
pub(crate) const OLLAMA: &str = "";

/// What stands before the address of an OpenAI-compatible server.
pub(crate) const OPENAI: &str = "openai+";

/// The kind of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Nginx(RequestBuffering),
    Haproxy,
    /// The value of `LLAMATOWER_LOG`.
    Llamatower(&'static str),
    PlainHyper,
    Litellm,
    Portkey,
}

/// How nginx handles the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestBuffering {
    /// It forwards the body as it arrives.
    Off,
    /// It reads the whole body first, and keeps up to 1 MiB in memory; a larger body goes to a
    /// file.
    OneMebibyte,
}

impl RequestBuffering {
    fn directives(self) -> &'static str {
        match self {
            Self::Off => "proxy_request_buffering off;",
            Self::OneMebibyte => "client_body_buffer_size 1m;",
        }
    }
}

/// A proxy that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    kind: Kind,
    program: PathBuf,
    core: usize,
    priority: Priority,
    /// The dialect of its clients.
    dialect: Dialect,
    /// The kind of its servers, in the gateway's settings.
    servers: &'static str,
    /// Who looks at it; only the gateway has observers.
    observers: Observers,
    /// Where its limits are; only the gateway has limits.
    limits: Limits,
    /// TLS for clients, if it speaks it.
    tls: Option<Tls>,
}

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
            Kind::Nginx(_) | Kind::Haproxy => version_of(&program, "-v"),
            Kind::Llamatower(_) | Kind::Litellm => version_of(&program, "--version"),
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

/// The path of a program, also in Debian's directories for servers.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The version that a program prints.
fn version_of(program: &Path, question: &str) -> String {
    let mut command = Command::new(program);
    command.arg(question).env(LITELLM_OFFLINE, "True");
    let output = command.output();
    let text = output
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    version_in(&String::from_utf8_lossy(&text))
}

/// The first word with a digit and a dot.
fn version_in(text: &str) -> String {
    let mut words = text
        .split_whitespace()
        .flat_map(|word| word.rsplit('/').next());
    let version = words.find(|word| {
        let word = word.trim_start_matches('v');
        word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
    });
    version.unwrap_or("unknown").to_owned()
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
        version_of(Path::new("node"), "--version")
    )
}

impl Contender {
    #[cfg(test)]
    pub(crate) fn fake(name: &'static str, version: &str) -> Self {
        let version = version.to_owned();
        Self {
            name,
            version,
            kind: Kind::Direct,
            program: PathBuf::new(),
            core: 0,
            priority: Priority::Usual,
            dialect: Dialect::Ollama,
            servers: OLLAMA,
            observers: Observers::Nobody,
            limits: Limits::None,
            tls: None,
        }
    }

    /// Starts to measure the lost time of the cores while the contender runs as these processes.
    pub(crate) async fn loss_meter(
        &self,
        processes: Option<&Processes>,
    ) -> Result<LostTimeMeter, Error> {
        match processes {
            Some(processes) if self.priority == Priority::First => {
                LostTimeMeter::both_cores(self.core, processes.clone()).await
            }
            _ => Ok(LostTimeMeter::own_core()),
        }
    }

    /// Its API dialect.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The same proxy for clients and in front of servers of another dialect.
    pub(crate) fn between(
        &self,
        name: &'static str,
        dialect: Dialect,
        servers: &'static str,
    ) -> Self {
        Self {
            name,
            dialect,
            servers,
            ..self.clone()
        }
    }

    /// The same gateway with observers.
    pub(crate) fn observed_by(&self, name: &'static str, observers: Observers) -> Self {
        Self {
            name,
            observers,
            ..self.clone()
        }
    }

    /// The same gateway with limits.
    pub(crate) fn limited(&self, name: &'static str, limits: Limits) -> Self {
        Self {
            name,
            limits,
            ..self.clone()
        }
    }

    /// The same proxy with this TLS for clients.
    pub(crate) fn with_tls(&self, name: &'static str, tls: Option<Tls>) -> Self {
        Self {
            name,
            tls,
            ..self.clone()
        }
    }

    /// The headers that it needs to forward a request.
    pub(crate) fn headers(&self, backends: &[SocketAddr]) -> String {
        match self.kind {
            Kind::Litellm => "Authorization: Bearer sk-versus\r\n".to_owned(),
            Kind::Portkey => format!(
                "Authorization: Bearer sk-versus\r\nx-portkey-provider: ollama\r\n\
                 x-portkey-custom-host: http://{}\r\n",
                backends[0]
            ),
            _ => shared::header(self.limits),
        }
    }

    /// The factor by which its load is reduced, because it would take hours otherwise.
    pub(crate) fn slower(&self) -> usize {
        match self.kind {
            Kind::Litellm => 40,
            Kind::Portkey => 10,
            _ => 1,
        }
    }

    /// Starts it and waits for the first answer to `probe`.
    pub(crate) async fn start(
        &self,
        backends: &[SocketAddr],
        probe: &[u8],
    ) -> Result<Running, Error> {
        if self.kind == Kind::Direct {
            return Ok(Running::nothing(backends));
        }
        // Another process may have taken the port in the meantime.
        let mut tries_left = 2;
        loop {
            let mut watching = Watching::before(self.observers).await?;
            let admin = free_address()?;
            let redis = Redis::start(self.limits).await?;
            let mut running = self.spawn(backends, admin, watching.collector, redis)?;
            match running.first_answer(probe).await {
                Ok(()) => {
                    watching.begin(self.observers, admin);
                    if self.observers == Observers::HangingCollector {
                        until_no_trace_is_made(&running, probe, admin).await?;
                    }
                    return Ok(running.watched_by(watching));
                }
                Err(_) if running.has_ended()? && tries_left > 0 => tries_left -= 1,
                Err(error) => {
                    let stderr_tail = running.stderr_tail();
                    return Err(
                        format!("{} does not answer: {error}\n{stderr_tail}", self.name).into(),
                    );
                }
            }
        }
    }

    /// Starts it once.
    fn spawn(
        &self,
        backends: &[SocketAddr],
        admin: SocketAddr,
        collector: Option<SocketAddr>,
        redis: Option<Redis>,
    ) -> Result<Running, Error> {
        let dir = tempfile::Builder::new()
            .prefix("llamatower-versus-")
            .tempdir()?;
        let listen = free_address()?;
        let mut command = cpu::command_on(self.core, self.priority);
        self.configure(&mut command, dir.path(), listen, backends)?;
        if let Kind::Llamatower(_) = self.kind {
            command.env("LLAMATOWER_ADMIN_LISTEN", admin.to_string());
            command
                .envs(collector.map(|at| ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{at}"))));
            shared::configure(&mut command, self.limits, redis.as_ref());
        }
        let running = Running::spawn(command, listen, dir)?;
        Ok(running.by_tls(self.tls.clone()).sharing(redis))
    }

    fn configure(
        &self,
        command: &mut Command,
        dir: &Path,
        listen: SocketAddr,
        backends: &[SocketAddr],
    ) -> Result<(), Error> {
        let port = listen.port().to_string();
        match self.kind {
            Kind::Direct => {}
            Kind::Nginx(buffering) => {
                let file = dir.join("nginx.conf");
                let tls = self.tls.as_ref();
                fs::write(&file, nginx(dir, listen, backends, buffering, tls))?;
                command
                    .arg(&self.program)
                    .arg("-p")
                    .arg(dir)
                    .arg("-e")
                    .arg("stderr")
                    .arg("-c");
                command.arg(file);
            }
            Kind::Haproxy => {
                let file = dir.join("haproxy.cfg");
                fs::write(&file, haproxy(listen, backends))?;
                command.arg(&self.program).arg("-db").arg("-f").arg(file);
            }
            Kind::Llamatower(log) => {
                let servers = self.servers;
                let urls: Vec<_> = backends
                    .iter()
                    .map(|at| format!("{servers}http://{at}"))
                    .collect();
                command.arg(&self.program).env_clear().envs([
                    ("PATH", env::var("PATH").unwrap_or_default()),
                    ("LLAMATOWER_LISTEN", listen.to_string()),
                    ("LLAMATOWER_LOG", log.to_owned()),
                    ("LLAMATOWER_WORKER_THREADS", "1".to_owned()),
                    ("LLAMATOWER_MAX_CONNECTIONS", "16384".to_owned()),
                    // The simulated servers answer any number of requests at once. Learned slots
                    // would begin with a queue, which the other proxies do not have.
                    ("LLAMATOWER_SLOTS", "off".to_owned()),
                    ("OLLAMA_URL", urls.join(",")),
                ]);
                if let Some(tls) = &self.tls {
                    command.env("LLAMATOWER_TLS_CERT", &tls.cert);
                    command.env("LLAMATOWER_TLS_KEY", &tls.key);
                }
            }
            Kind::PlainHyper => {
                command
                    .arg(&self.program)
                    .arg("plain-proxy")
                    .arg(listen.to_string());
                command.args(backends.iter().map(SocketAddr::to_string));
            }
            Kind::Litellm => {
                let file = dir.join("litellm.yaml");
                fs::write(&file, litellm(backends))?;
                command.arg(&self.program).arg("--config").arg(file);
                command.args(["--host", "127.0.0.1", "--num_workers", "1", "--port", &port]);
                // Without API keys, like the other contenders.
                command.env(
                    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY",
                    "true",
                );
                command.env(LITELLM_OFFLINE, "True");
            }
            Kind::Portkey => {
                command
                    .arg("node")
                    .arg(&self.program)
                    .arg(format!("--port={port}"));
                command
                    .arg("--headless")
                    .env("TRUSTED_CUSTOM_HOSTS", "127.0.0.1,localhost");
            }
        }
        Ok(())
    }
}

/// A free loopback address.
pub(crate) fn free_address() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn nginx(
    dir: &Path,
    listen: SocketAddr,
    backends: &[SocketAddr],
    buffering: RequestBuffering,
    tls: Option<&Tls>,
) -> String {
    let buffering = buffering.directives();
    let (ssl, certificate) = match tls {
        None => ("", String::new()),
        Some(tls) => {
            let (cert, key) = (tls.cert.display(), tls.key.display());
            let certificate = format!(
                "    ssl_certificate {cert};\n    ssl_certificate_key {key};\n    \
                 ssl_protocols TLSv1.3;\n    ssl_session_cache off;\n"
            );
            (" ssl", certificate)
        }
    };
    let servers: String = backends
        .iter()
        .map(|at| format!("    server {at};\n"))
        .collect();
    let dir = dir.display();
    // Otherwise the worker runs as the user `nobody`, which cannot read the directory.
    let user = if rustix::process::geteuid().is_root() {
        "user root;\n"
    } else {
        ""
    };
    format!(
        "{user}daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 100000000;
  client_max_body_size 1g;
  upstream backends {{
{servers}    keepalive 256;
    keepalive_requests 100000000;
  }}
  server {{
    listen {listen}{ssl} backlog=4096;
{certificate}    location / {{
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
      {buffering}
      proxy_read_timeout 1h;
    }}
  }}
}}
"
    )
}

fn haproxy(listen: SocketAddr, backends: &[SocketAddr]) -> String {
    let servers: String = backends
        .iter()
        .enumerate()
        .map(|(nth, at)| format!("  server s{nth} {at} pool-max-conn 256\n"))
        .collect();
    format!(
        "global
  nbthread 1
  maxconn 9000
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-request 1h
  timeout http-keep-alive 1h
frontend clients
  bind {listen} backlog 4096
  default_backend backends
backend backends
  balance roundrobin
  http-reuse always
{servers}"
    )
}

fn litellm(backends: &[SocketAddr]) -> String {
    let models: String = backends
        .iter()
        .map(|at| {
            format!(
                "  - model_name: bench\n    litellm_params:\n      model: openai/bench\n      \
                 api_base: http://{at}/v1\n      api_key: sk-versus\n"
            )
        })
        .collect();
    format!("model_list:\n{models}litellm_settings:\n  num_retries: 0\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_a_text() {
        assert_eq!(version_in("nginx version: nginx/1.22.1\n"), "1.22.1");
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(version_in(haproxy), "2.6.12-1+deb12u4");
        assert_eq!(version_in("v20.20.2"), "v20.20.2");
        assert_eq!(version_in(""), "unknown");
    }
}
