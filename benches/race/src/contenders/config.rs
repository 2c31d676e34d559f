//! The configurations of the proxies.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Error,
    client::key_of,
    prompt::model_name,
    scenario::{SLOTS, Scenario},
};

/// What a configuration depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) dir: &'a Path,
    pub(super) listen: SocketAddr,
    pub(super) servers: &'a [SocketAddr],
    pub(super) scenario: &'a Scenario,
    pub(super) speed: f64,
}

impl Place<'_> {
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let file = self.dir.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }

    /// The time-out for the first byte in milliseconds; an hour by default.
    fn first_byte(&self) -> u64 {
        match self.scenario.first_byte {
            Some(seconds) => (1e3 * seconds / self.speed).round() as u64,
            None => 3_600_000,
        }
    }

    fn each_server(&self, line: impl Fn(usize, &SocketAddr) -> String) -> String {
        let servers = self.servers.iter().enumerate();
        servers.map(|(nth, server)| line(nth, server)).collect()
    }

    /// Only the addresses, what the scenario is about, and the gateway's intervals in time of the
    /// model: 5 s between two probes, and 30 s of ageing.
    pub(super) fn llamatower(&self) -> Vec<(&'static str, String)> {
        let urls: Vec<_> = self
            .servers
            .iter()
            .map(|at| format!("http://{at}"))
            .collect();
        let time = |seconds: f64| format!("{}ms", (1e3 * seconds / self.speed).ceil());
        let mut settings = vec![
            ("LLAMATOWER_PROBE_INTERVAL", time(5.0)),
            ("LLAMATOWER_QUEUE_AGEING", time(30.0)),
            ("LLAMATOWER_LISTEN", self.listen.to_string()),
            ("LLAMATOWER_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("LLAMATOWER_LOG", "warn".to_owned()),
            ("OLLAMA_URL", urls.join(",")),
        ];
        if self.scenario.first_byte.is_some() {
            let time = format!("{}ms", self.first_byte());
            settings.push(("LLAMATOWER_FIRST_BYTE_TIMEOUT", time));
        }
        if self.scenario.has_clients {
            let clients = self.scenario.jobs.iter().map(|job| job.client).max();
            let keys = (0..=clients.unwrap_or(0)).map(|client| {
                let digest = Sha256::digest(key_of(client));
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("client-{client}=sha256:{hex}")
            });
            let keys: Vec<_> = keys.collect();
            settings.push(("LLAMATOWER_API_KEYS", keys.join(",")));
        }
        settings
    }

    /// `least_conn`, with another server asked after an error that a proxy may repeat: not after
    /// 500, which an answer to a wrong request may have, too. A server that failed is left out for
    /// 10 s of the model, which is nginx's default, or for a second, which is its shortest time.
    pub(super) fn nginx(&self) -> String {
        let fail_timeout = (10.0 / self.speed).ceil();
        let servers =
            self.each_server(|_, at| format!("    server {at} fail_timeout={fail_timeout}s;\n"));
        let (dir, listen, timeout) = (self.dir.display(), self.listen, self.first_byte());
        // Otherwise the worker runs as the user `nobody`, which cannot read the directory.
        let user = match rustix::process::geteuid().is_root() {
            true => "user root;\n",
            false => "",
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
  client_max_body_size 1g;
  client_body_buffer_size 1m;
  upstream backends {{
    least_conn;
{servers}    keepalive 256;
  }}
  server {{
    listen {listen} backlog=4096;
    location / {{
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection \"\";
      proxy_buffering off;
      proxy_read_timeout {timeout}ms;
      proxy_next_upstream error timeout http_502 http_503 http_504 non_idempotent;
    }}
  }}
}}
"
        )
    }

    /// `leastconn`, with the same repetitions as nginx.
    pub(super) fn haproxy(&self, has_maxconn: bool) -> String {
        let maxconn = match has_maxconn {
            true => format!(" maxconn {SLOTS}"),
            false => String::new(),
        };
        let servers = self.each_server(|nth, at| format!("  server s{nth} {at}{maxconn}\n"));
        let (listen, timeout) = (self.listen, self.first_byte());
        format!(
            "global
  nbthread 1
  maxconn 9000
  tune.bufsize 131072
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  timeout connect 5s
  timeout client 1h
  timeout server {timeout}ms
  timeout queue 1h
  timeout http-request 1h
  timeout http-keep-alive 1h
frontend clients
  bind {listen} backlog 4096
  default_backend backends
backend backends
  balance leastconn
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response response-timeout 502 503 504
  option http-buffer-request
{servers}"
        )
    }

    /// It takes one request at a time for each server and model unless it is told the slots, which
    /// its list of models does; that list also loads the models, so it has only one that is in
    /// memory already.
    pub(super) fn ollama_mq(&self) -> String {
        let servers = self.each_server(|_, at| format!("  - http://{at}\n"));
        let models = match self.scenario.models {
            1 => format!(
                "models:\n  - name: \"{}\"\n    keep_alive: -1\n    max_concurrent_requests: {SLOTS}\n",
                model_name(0)
            ),
            _ => String::new(),
        };
        format!(
            "backends:\n{servers}settings:\n  max_concurrent_per_backend: {SLOTS}\n  timeout: 3600\n{models}"
        )
    }

    /// Without reports to its makers, and with its files in the directory. Its agents read the
    /// server's settings from their own environment, and report as often as in real time.
    pub(super) fn ollama_herd(&self) -> Vec<(&'static str, String)> {
        let dir = self.dir.display().to_string();
        vec![
            ("FLEET_TELEMETRY", "false".to_owned()),
            ("FLEET_NODE_TELEMETRY", "false".to_owned()),
            ("FLEET_AUTO_PULL", "false".to_owned()),
            ("FLEET_DATA_DIR", dir.clone()),
            (
                "FLEET_NODE_HEARTBEAT_INTERVAL",
                format!("{:.2}", 5.0 / self.speed),
            ),
            ("OLLAMA_NUM_PARALLEL", SLOTS.to_string()),
            ("OLLAMA_MAX_LOADED_MODELS", "1".to_owned()),
            ("HOME", dir),
        ]
    }
}
