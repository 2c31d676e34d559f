//! The arguments, variables and files of a proxy.

use std::{env, fs, net::SocketAddr, path::Path, process::Command};

use super::{Contender, Kind, LITELLM_OFFLINE, RequestBuffering};
use crate::{Error, tls::Tls};

impl Contender {
    /// Writes what it reads at its start, and completes the command that starts it.
    pub(super) fn configure(
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
                if let Some(tls) = &self.tls {
                    command.arg("--cert").arg(&tls.cert);
                    command.arg("--key").arg(&tls.key);
                }
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

impl RequestBuffering {
    fn directives(self) -> &'static str {
        match self {
            Self::Off => "proxy_request_buffering off;",
            Self::OneMebibyte => "client_body_buffer_size 1m;",
        }
    }
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
