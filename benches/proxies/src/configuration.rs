//! The configurations of nginx and HAProxy: what all comparisons have in common, and the places for the rest.
//!
//! Each runs in the foreground with one worker, keeps connections to the servers, and writes no access log.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// nginx. Each text has complete directives; an empty one adds nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nginx<'a> {
    /// For its files.
    pub dir: &'a Path,
    /// The address for clients.
    pub listen: SocketAddr,
    /// For all connections.
    pub http: &'a str,
    /// The servers, and how one is chosen.
    pub upstream: &'a str,
    /// The certificate and its key, if clients use TLS.
    pub tls: Option<&'a str>,
    /// For each request.
    pub location: &'a str,
}

impl Nginx<'_> {
    /// Writes the configuration, and adds the arguments to the command that starts nginx.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn configure(&self, command: &mut Command) -> io::Result<()> {
        let file = self.dir.join("nginx.conf");
        fs::write(&file, self.text())?;
        command.arg("-p").arg(self.dir);
        command.args(["-e", "stderr", "-c"]).arg(file);
        Ok(())
    }

    fn text(&self) -> String {
        let Self {
            listen,
            http,
            upstream,
            location,
            ..
        } = self;
        let dir = self.dir.display();
        let ssl = self.tls.map_or("", |_| " ssl");
        let tls = self.tls.unwrap_or_default();
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
  {http}
  upstream backends {{
    {upstream}
    keepalive 256;
  }}
  server {{
    listen {listen}{ssl} backlog=4096;
    {tls}
    location / {{
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
      {location}
    }}
  }}
}}
"
        )
    }
}

/// HAProxy. Each text has complete lines; an empty one adds nothing.
#[derive(Clone, Copy, Debug)]
pub struct Haproxy<'a> {
    /// For its file.
    pub dir: &'a Path,
    /// The address for clients.
    pub listen: SocketAddr,
    /// For the process.
    pub global: &'a str,
    /// For all connections.
    pub defaults: &'a str,
    /// The servers, and how one is chosen.
    pub backend: &'a str,
}

impl Haproxy<'_> {
    /// Writes the configuration, and adds the arguments to the command that starts HAProxy.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn configure(&self, command: &mut Command) -> io::Result<()> {
        let file = self.dir.join("haproxy.cfg");
        fs::write(&file, self.text())?;
        command.arg("-db").arg("-f").arg(file);
        Ok(())
    }

    fn text(&self) -> String {
        let Self {
            listen,
            global,
            defaults,
            backend,
            ..
        } = self;
        format!(
            "global
  nbthread 1
  maxconn 9000
  {global}
defaults
  mode http
  option http-keep-alive
  option http-no-delay
  timeout connect 5s
  timeout client 1h
  timeout http-request 1h
  timeout http-keep-alive 1h
  {defaults}
frontend clients
  bind {listen} backlog 4096
  default_backend backends
backend backends
  {backend}
"
        )
    }
}

/// One text for each server, with its number from 0.
pub fn numbered(servers: &[SocketAddr], line: impl Fn(usize, &SocketAddr) -> String) -> String {
    let servers = servers.iter().enumerate();
    servers.map(|(nth, server)| line(nth, server)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{free_address, on_path};

    /// Whether an installed program accepts its configuration; `None` without the program.
    fn accepts(
        program: &str,
        check: &[&str],
        configure: impl FnOnce(&mut Command) -> io::Result<()>,
    ) -> Option<bool> {
        let mut command = Command::new(on_path(program)?);
        configure(&mut command).unwrap();
        let output = command.args(check).output().unwrap();
        println!("{}", String::from_utf8_lossy(&output.stderr));
        Some(output.status.success())
    }

    #[test]
    fn nginx_accepts_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let nginx = Nginx {
            dir: dir.path(),
            listen: free_address().unwrap(),
            http: "",
            upstream: "server 127.0.0.1:2;",
            tls: None,
            location: "proxy_read_timeout 1h;",
        };
        let accepted = accepts("nginx", &["-t"], |command| nginx.configure(command));
        assert_ne!(accepted, Some(false));
    }

    #[test]
    fn haproxy_accepts_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let servers = [
            "127.0.0.1:2".parse().unwrap(),
            "127.0.0.1:3".parse().unwrap(),
        ];
        let backend = numbered(&servers, |nth, at| format!("  server s{nth} {at}\n"));
        let haproxy = Haproxy {
            dir: dir.path(),
            listen: free_address().unwrap(),
            global: "",
            defaults: "timeout server 1h",
            backend: &backend,
        };
        let accepted = accepts("haproxy", &["-c"], |command| haproxy.configure(command));
        assert_ne!(accepted, Some(false));
    }
}
