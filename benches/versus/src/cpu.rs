//! The resources of a group of processes: CPU time of all threads, and memory.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::Error;

/// The processes of a proxy, which runs in its own process group.
#[derive(Clone, Debug)]
pub(crate) struct Processes(Vec<u32>);

impl Processes {
    /// The current processes of a group.
    pub(crate) fn of_group(group: u32) -> Result<Self, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process that has ended has no file.
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

    /// A single process.
    pub(crate) fn one(pid: u32) -> Self {
        Self(vec![pid])
    }

    /// This process.
    pub(crate) fn own() -> Self {
        Self::one(std::process::id())
    }

    /// These and other processes.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The CPU time of each living thread.
    pub(crate) fn cpu(&self) -> Result<CpuTimes, Error> {
        let mut times = BTreeMap::new();
        for pid in &self.0 {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let path = task?.path();
                // A thread that has ended has no file.
                let Ok(text) = fs::read_to_string(path.join("schedstat")) else {
                    continue;
                };
                let word = text.split_whitespace().next();
                let nanoseconds = word.ok_or("a short schedstat")?.parse()?;
                times.insert(path, Duration::from_nanos(nanoseconds));
            }
        }
        if times.is_empty() {
            return Err("no thread with a schedstat".into());
        }
        Ok(CpuTimes(times))
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

/// CPU time by thread, since the start of the thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuTimes(BTreeMap<PathBuf, Duration>);

impl CpuTimes {
    pub(crate) fn sum(&self) -> Duration {
        self.0.values().sum()
    }

    /// The time that the living threads have used since. The time of threads that have ended is not
    /// known.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(thread, now)| {
            let before = before.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(before)
        });
        used.sum()
    }
}

/// The process group in the text of `/proc/PID/stat`.
fn group_of(stat: &str) -> Option<u32> {
    // The program name is in brackets and may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(2)?.parse().ok()
}

/// The time that a core was not idle, for any process.
pub(crate) fn core_used(core: usize) -> Result<Duration, Error> {
    Ok(used_in(&fs::read_to_string("/proc/stat")?, core).ok_or("no such core")?)
}

/// The used time in the text of `/proc/stat`.
fn used_in(stat: &str, core: usize) -> Option<Duration> {
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let used = [0, 1, 2, 5, 6, 7]
        .iter()
        .map(|&nth| ticks.get(nth))
        .sum::<Option<u64>>()?;
    // Linux counts in hundredths of a second.
    Some(Duration::from_millis(used * 10))
}

/// `VmRSS` in the text of `/proc/PID/status`, in kB.
fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The scheduling priority of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Before all other processes and most kernel threads, which never interrupt it.
    First,
    Usual,
    /// Only if no other process runs.
    Last,
}

/// The longest delay until the kernel charges used time to a thread, on a kernel with 250 ticks per
/// second. A thread that releases its core is charged at once.
pub(crate) const TICK: Duration = Duration::from_millis(4);

/// A command whose program, the first argument, is bound to a core.
pub(crate) fn command_on(core: usize, priority: Priority) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]);
    // Run on that core only, so that it does not wait for another core.
    match priority {
        Priority::First => command.args(["chrt", "--fifo", "1"]),
        Priority::Usual => &mut command,
        Priority::Last => command.args(["chrt", "--idle", "0"]),
    };
    command
}

/// Whether this process may set the highest priority.
pub(crate) fn can_run_first(core: usize) -> bool {
    let mut command = command_on(core, Priority::First);
    command.arg("true").stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A description of the machine.
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
    fn the_group_is_found_after_any_program_name() {
        assert_eq!(group_of("12 (a) b) S 1 77 77 0"), Some(77));
        assert_eq!(group_of(""), None);
    }

    #[test]
    fn threads_that_have_ended_are_left_out() -> Result<(), Error> {
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
    fn a_thread_that_has_ended_does_not_reduce_the_sum() {
        let of = |thread: &str, seconds| (PathBuf::from(thread), Duration::from_secs(seconds));
        let before = CpuTimes([of("1", 5), of("2", 90)].into());
        let after = CpuTimes([of("1", 7), of("3", 1)].into());
        assert_eq!(after.since(&before), Duration::from_secs(3));
    }

    #[test]
    fn iowait_is_not_used_time() {
        let stat = "cpu  9 9 9 9\ncpu1 1 2 3 400 500 6 7 8 0 0\nintr 1\n";
        assert_eq!(used_in(stat, 1), Some(Duration::from_millis(270)));
        assert_eq!(used_in(stat, 2), None);
    }

    #[test]
    fn the_resident_set_is_read_in_kilobytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1234));
    }
}
