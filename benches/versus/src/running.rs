//! A running proxy.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use llamatower_proxies::{ProcessGroup, last_lines};
use tempfile::TempDir;

use crate::{
    Error,
    load::{self, Target},
    observed::Watching,
    shared::Redis,
    tls::Tls,
};

/// A running proxy, or none. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Running {
    /// The addresses for clients.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The time from the start of the process to its first answer; `None` without a proxy.
    pub(crate) cold_start: Option<Duration>,
    /// TLS for clients, if it speaks it.
    pub(crate) tls: Option<Tls>,
    process: Option<Process>,
    /// Those who look at it.
    _watching: Watching,
    /// What it shares limits through.
    _redis: Option<Redis>,
}

#[derive(Debug)]
struct Process {
    group: ProcessGroup,
    begin: Instant,
    /// The configuration and the standard error output.
    dir: TempDir,
}

/// The file of the standard error output.
const STDERR_FILE: &str = "stderr";

impl Running {
    /// No proxy: clients connect to the backends.
    pub(crate) fn nothing(backends: &[SocketAddr]) -> Self {
        Self {
            addresses: backends.to_vec(),
            cold_start: None,
            tls: None,
            process: None,
            _watching: Watching::default(),
            _redis: None,
        }
    }

    pub(crate) fn by_tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    pub(crate) fn sharing(mut self, redis: Option<Redis>) -> Self {
        self._redis = redis;
        self
    }

    pub(crate) fn watched_by(mut self, watching: Watching) -> Self {
        self._watching = watching;
        self
    }

    /// Starts the proxy in its own process group.
    pub(crate) fn spawn(
        mut command: Command,
        listen: SocketAddr,
        dir: TempDir,
    ) -> Result<Self, Error> {
        let begin = Instant::now();
        command
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join(STDERR_FILE))?);
        let group = ProcessGroup::spawn(&mut command)?;
        Ok(Self {
            addresses: vec![listen],
            cold_start: None,
            tls: None,
            process: Some(Process { group, begin, dir }),
            _watching: Watching::default(),
            _redis: None,
        })
    }

    /// The process group.
    pub(crate) fn group(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.group.id())
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool, Error> {
        match &mut self.process {
            Some(process) => Ok(process.group.has_ended()?),
            None => Ok(false),
        }
    }

    /// Waits for the first answer to `probe`.
    pub(crate) async fn first_answer(&mut self, probe: &[u8]) -> Result<(), Error> {
        let begin = self.process.as_ref().map(|process| process.begin);
        let took = || begin.map_or(Duration::ZERO, |begin| begin.elapsed());
        while let Err(error) = self.answer(probe).await {
            if self.has_ended()? || took() > Duration::from_secs(90) {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.cold_start = Some(took());
        Ok(())
    }

    /// Sends one request and waits for its answer.
    pub(crate) async fn answer(&self, probe: &[u8]) -> Result<(), Error> {
        let target = Target {
            addresses: self.addresses.clone(),
            request: probe.into(),
            tls: self.tls.clone(),
            lines: 0,
            bytes: 2,
        };
        load::answers(&target, Duration::from_secs(5)).await?;
        Ok(())
    }

    /// The last lines of the standard error output.
    pub(crate) fn stderr_tail(&self) -> String {
        let file = self
            .process
            .as_ref()
            .map(|one| one.dir.path().join(STDERR_FILE));
        file.map_or_else(String::new, |file| last_lines(&file, 5))
    }
}
