//! The configurations of the proxies.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use data_encoding::HEXLOWER;
use llamatower_proxies::{Haproxy, Nginx, numbered};
use sha2::{Digest as _, Sha256};

use super::Maxconn;
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
                let digest = HEXLOWER.encode(&Sha256::digest(key_of(client)));
                format!("client-{client}=sha256:{digest}")
            });
            let keys: Vec<_> = keys.collect();
            settings.push(("LLAMATOWER_API_KEYS", keys.join(",")));
        }
        settings
    }

    /// `least_conn`, with another server asked after an error that a proxy may repeat: not after
    /// 500, which an answer to a wrong request may have, too. A server that failed is left out for
    /// 10 s of the model, which is nginx's default, or for a second, which is its shortest time.
    pub(super) fn nginx(&self, command: &mut Command) -> Result<(), Error> {
        let fail_timeout = (10.0 / self.speed).ceil();
        let servers = numbered(self.servers, |_, at| {
            format!("    server {at} fail_timeout={fail_timeout}s;\n")
        });
        let timeout = self.first_byte();
        let nginx = Nginx {
            dir: self.dir,
            listen: self.listen,
            http: "client_body_buffer_size 1m;",
            upstream: &format!("least_conn;\n{servers}"),
            tls: None,
            location: &format!(
                "proxy_set_header Host $http_host;
      proxy_read_timeout {timeout}ms;
      proxy_next_upstream error timeout http_502 http_503 http_504 non_idempotent;"
            ),
        };
        Ok(nginx.configure(command)?)
    }

    /// `leastconn`, with the same repetitions as nginx.
    pub(super) fn haproxy(&self, maxconn: Maxconn, command: &mut Command) -> Result<(), Error> {
        let maxconn = match maxconn {
            Maxconn::Slots => format!(" maxconn {SLOTS}"),
            Maxconn::Unset => String::new(),
        };
        let servers = numbered(self.servers, |nth, at| {
            format!("  server s{nth} {at}{maxconn}\n")
        });
        let timeout = self.first_byte();
        let haproxy = Haproxy {
            dir: self.dir,
            listen: self.listen,
            global: "tune.bufsize 131072",
            defaults: &format!("timeout server {timeout}ms\n  timeout queue 1h"),
            backend: &format!(
                "balance leastconn
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response response-timeout 502 503 504
  option http-buffer-request
{servers}"
            ),
        };
        Ok(haproxy.configure(command)?)
    }

    /// It takes one request at a time for each server and model unless it is told the slots, which
    /// its list of models does; that list also loads the models, so it has only one that is in
    /// memory already.
    pub(super) fn ollama_mq(&self) -> String {
        let servers = numbered(self.servers, |_, at| format!("  - http://{at}\n"));
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
