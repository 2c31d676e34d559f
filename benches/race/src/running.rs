//! The processes of a running proxy.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use llamatower_proxies::{ProcessGroup, last_lines};
use tempfile::TempDir;

use crate::{Error, client::Client};

/// A running proxy. Dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    /// One for each of its programs.
    groups: Vec<ProcessGroup>,
    /// Its configuration and its output.
    dir: TempDir,
}

impl Running {
    /// Starts the programs, each in its own process group.
    pub(crate) fn spawn(
        commands: Vec<Command>,
        address: SocketAddr,
        dir: TempDir,
    ) -> Result<Self, Error> {
        let mut running = Self {
            address,
            groups: Vec::new(),
            dir,
        };
        for (nth, mut command) in commands.into_iter().enumerate() {
            let output = fs::File::create(running.dir.path().join(format!("output-{nth}.log")))?;
            command.stdout(output.try_clone()?).stderr(output);
            running.groups.push(ProcessGroup::spawn(&mut command)?);
        }
        Ok(running)
    }

    /// Waits until the proxy lists these models.
    pub(crate) async fn lists(
        &mut self,
        models: &[String],
        who: Option<usize>,
    ) -> Result<(), Error> {
        let client = Client::new(self.address);
        let begin = Instant::now();
        loop {
            let why: Error = match client.get("/api/tags", who).await {
                Ok(list) => {
                    let list = String::from_utf8_lossy(&list);
                    match models.iter().find(|model| !list.contains(model.as_str())) {
                        None => return Ok(()),
                        Some(model) => format!("it does not list {model}").into(),
                    }
                }
                Err(why) => why,
            };
            if self.groups[0].has_ended()? || begin.elapsed() > Duration::from_secs(60) {
                return Err(format!("it is not ready: {why}\n{}", self.last_output()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until ollama-herd has heard of so many servers.
    pub(crate) async fn has_nodes(&self, count: usize) -> Result<(), Error> {
        let client = Client::new(self.address);
        let begin = Instant::now();
        loop {
            let status = client.get("/fleet/status", None).await?;
            let status: serde_json::Value = serde_json::from_slice(&status)?;
            let nodes = status["nodes"].as_array().map_or(0, Vec::len);
            if nodes >= count {
                return Ok(());
            }
            if begin.elapsed() > Duration::from_secs(60) {
                return Err(format!("it knows {nodes} of {count} servers").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn last_output(&self) -> String {
        last_lines(&self.dir.path().join("output-0.log"), 8)
    }

    /// Copies the output of its programs.
    pub(crate) fn keep_output(&self, to: &Path) -> Result<(), Error> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(self.dir.path())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(".log") {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// The CPU time of its processes so far, with the processes that they have waited for.
    pub(crate) fn cpu(&self) -> Result<Duration, Error> {
        let groups: Vec<u32> = self.groups.iter().map(ProcessGroup::id).collect();
        let mut ticks = 0;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            // A process that has ended has no file.
            let Ok(stat) = fs::read_to_string(Path::new("/proc").join(name).join("stat")) else {
                continue;
            };
            if let Some((group, used)) = group_and_ticks(&stat)
                && groups.contains(&group)
            {
                ticks += used;
            }
        }
        let rate = rustix::param::clock_ticks_per_second() as f64;
        Ok(Duration::from_secs_f64(ticks as f64 / rate))
    }
}

/// The process group in the text of `/proc/PID/stat`, and the ticks of CPU time.
fn group_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // The program name is in brackets and may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let group = fields.get(2)?.parse().ok()?;
    let ticks = fields
        .get(11..15)?
        .iter()
        .map(|ticks| ticks.parse::<u64>().ok());
    Some((group, ticks.sum::<Option<u64>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_process_are_read_whatever_its_name_is() {
        let stat = "7 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 5 6 7";
        assert_eq!(group_and_ticks(stat), Some((42, 124)));
    }
}
