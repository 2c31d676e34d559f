//! The arguments, variables and files of a proxy.

use std::{env, fs, net::SocketAddr, path::Path, process::Command};

use llamatower_proxies::{Haproxy, Nginx, numbered};

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
                let tls = self.tls.as_ref().map(nginx_certificate);
                Nginx {
                    dir,
                    listen,
                    http: "keepalive_requests 100000000;",
                    upstream: &format!(
                        "{}keepalive_requests 100000000;",
                        numbered(backends, |_, at| format!("server {at};\n    "))
                    ),
                    tls: tls.as_deref(),
                    location: &format!("{}\n      proxy_read_timeout 1h;", buffering.directives()),
                }
                .configure(command.arg(&self.program))?;
            }
            Kind::Haproxy => {
                let servers = numbered(backends, |nth, at| {
                    format!("  server s{nth} {at} pool-max-conn 256\n")
                });
                Haproxy {
                    dir,
                    listen,
                    global: "",
                    defaults: "timeout server 1h",
                    backend: &format!("balance roundrobin\n  http-reuse always\n{servers}"),
                }
                .configure(command.arg(&self.program))?;
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

/// The certificate and its key, without what makes a later handshake cheaper than the first one.
fn nginx_certificate(tls: &Tls) -> String {
    let (cert, key) = (tls.cert.display(), tls.key.display());
    format!(
        "ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_session_cache off;"
    )
}

fn litellm(backends: &[SocketAddr]) -> String {
    let models = numbered(backends, |_, at| {
        format!(
            "  - model_name: bench\n    litellm_params:\n      model: openai/bench\n      \
             api_base: http://{at}/v1\n      api_key: sk-versus\n"
        )
    });
    format!("model_list:\n{models}litellm_settings:\n  num_retries: 0\n")
}
