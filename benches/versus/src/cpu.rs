//! What a group of processes has used: CPU time of all its threads, and memory.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use crate::Error;

/// The processes of a proxy: the one that was started leads a process group of its own.
#[derive(Clone, Debug)]
pub(crate) struct Processes(Vec<u32>);

impl Processes {
    /// Those of the group now.
    pub(crate) fn of_group(group: u32) -> Result<Self, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process that ended meanwhile has no file any more.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            if group_of(&stat) == Some(group) {
                found.push(pid);
            }
        }
        if found.is_empty() {
            return Err("the proxy has ended".into());
        }
        Ok(Self(found))
    }

    /// A single one.
    pub(crate) fn one(pid: u32) -> Self {
        Self(vec![pid])
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self::one(std::process::id())
    }

    /// These and others.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The CPU time of all threads since they began.
    pub(crate) fn cpu(&self) -> Result<Duration, Error> {
        let mut nanoseconds = None;
        for pid in &self.0 {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread that ended meanwhile has no file any more.
                let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                    continue;
                };
                let word = text.split_whitespace().next();
                *nanoseconds.get_or_insert(0) += word.ok_or("a short schedstat")?.parse::<u64>()?;
            }
        }
        let nanoseconds = nanoseconds.ok_or("no thread with a schedstat")?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Resident memory, in kB.
    pub(crate) fn resident(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for pid in &self.0 {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            sum += resident_in(&status).ok_or("no VmRSS")?;
        }
        Ok(sum)
    }
}

/// The process group in the text of `/proc/PID/stat`.
fn group_of(stat: &str) -> Option<u32> {
    // The name of the program stands in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(2)?.parse().ok()
}

/// The time that a core has not been idle, whoever used it.
pub(crate) fn core_used(core: usize) -> Result<Duration, Error> {
    Ok(used_in(&fs::read_to_string("/proc/stat")?, core).ok_or("no such core")?)
}

/// That time in the text of `/proc/stat`.
fn used_in(stat: &str, core: usize) -> Option<Duration> {
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, waiting for a disk, interrupts of two kinds, stolen
    let used = [0, 1, 2, 5, 6, 7]
        .iter()
        .map(|&nth| ticks.get(nth))
        .sum::<Option<u64>>()?;
    // Linux counts them in hundredths of a second.
    Some(Duration::from_millis(used * 10))
}

/// `VmRSS` in the text of `/proc/PID/status`, in kB.
fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// When a process runs, if others want its core too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Before all others and most of the kernel's threads, which never interrupt it.
    First,
    Usual,
    /// If nothing else would.
    Last,
}

/// A command whose program, its first argument, is bound to a core.
pub(crate) fn command_on(core: usize, priority: Priority) -> Command {
    let policy: &[_] = match priority {
        Priority::First => &["chrt", "--fifo", "1"],
        Priority::Usual => &[],
        Priority::Last => &["chrt", "--idle", "0"],
    };
    let core = core.to_string();
    let mut words = policy.iter().copied().chain(["taskset", "-c", &core]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Whether this process may give such a priority.
pub(crate) fn may_run_first(core: usize) -> bool {
    let mut command = command_on(core, Priority::First);
    command.arg("true").stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The machine, in words.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("unknown CPU", |(_, name)| name.trim());
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn the_group_is_found_behind_any_name() {
        assert_eq!(group_of("12 (a) b) S 1 77 77 0"), Some(77));
        assert_eq!(group_of(""), None);
    }

    #[test]
    fn threads_that_end_meanwhile_are_left_out() -> Result<(), Error> {
        let (stop, is_stopped) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while is_stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    thread::spawn(|| ()).join().ok();
                }
            });
            let readings = (0..1_000).try_for_each(|_| Processes::own().cpu().map(drop));
            drop(stop);
            readings
        })
    }

    #[test]
    fn a_core_that_waits_is_not_used() {
        let stat = "cpu  9 9 9 9\ncpu1 1 2 3 400 500 6 7 8 0 0\nintr 1\n";
        assert_eq!(used_in(stat, 1), Some(Duration::from_millis(270)));
        assert_eq!(used_in(stat, 2), None);
    }

    #[test]
    fn the_resident_set_is_read_in_kilobytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1234));
    }
}
