//! Starts a proxy.

use std::net::SocketAddr;

use llamatower_proxies::free_address;

use super::{Contender, Kind};
use crate::{
    Error, cpu,
    observed::{Observers, Watching, until_no_trace_is_made},
    running::Running,
    shared::{self, Redis},
};

impl Contender {
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
}
