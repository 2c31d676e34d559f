//! Measures the time that other work took from the two cores.
//!
//! Other processes of the machine, and the hypervisor with its other guests, sometimes take a core
//! for some milliseconds. A delay at that time is not the proxy's fault. On a core that is never
//! idle, such time is visible: it is the time that the measured processes have not used. Time taken
//! by the hypervisor is visible if Linux reports it as stolen, because Linux then does not charge
//! it to threads; otherwise it is not visible.

use std::{
    env,
    hint::black_box,
    process::{Child, Stdio, id},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, getppid, set_parent_process_death_signal},
    time::{ClockId, clock_gettime},
};

use crate::{
    Error,
    cpu::{self, CpuTimes, Priority, Processes},
};

/// The CPU time after which a filler runs on its core and has finished its start.
const FILLER_START_TIME: Duration = Duration::from_millis(10);

/// A process that runs on a core whenever no other process does, so that the core is never idle.
#[derive(Debug)]
struct Filler(Child);

impl Filler {
    async fn start(core: usize) -> Result<Self, Error> {
        let mut command = cpu::command_on(core, Priority::Last);
        command.arg(env::current_exe()?);
        command.args(["fill", &id().to_string()]);
        let filler = Self(command.stdin(Stdio::null()).spawn()?);
        let begin = Instant::now();
        while filler.processes().cpu()?.sum() < FILLER_START_TIME {
            if begin.elapsed() > Duration::from_secs(5) {
                return Err("the core of the proxy could not be filled".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(filler)
    }

    fn processes(&self) -> Processes {
        Processes::one(self.0.id())
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The work of a [`Filler`], as long as its parent lives.
pub(crate) fn fill(parent: u32) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before.
    if getppid().map(Pid::as_raw_pid) != i32::try_from(parent).ok() {
        return Ok(());
    }
    loop {
        // Not `spin_loop`: a hypervisor takes the core from a guest that signals waiting.
        black_box(());
    }
}

/// The time that each core has lost since the start, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LostTime {
    pub(crate) own: i64,
    pub(crate) proxy: i64,
}

impl LostTime {
    /// The smaller of two readings for each core.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            own: self.own.min(other.own),
            proxy: self.proxy.min(other.proxy),
        }
    }

    /// The lost time since an earlier reading, of the core that lost more.
    pub(crate) fn since(self, before: Self) -> Duration {
        let lost = (self.own - before.own).max(self.proxy - before.proxy);
        Duration::from_nanos(lost.try_into().unwrap_or(0))
    }
}

/// Measures the time that the cores have lost.
#[derive(Debug)]
pub(crate) struct LostTimeMeter {
    begin: Instant,
    own: Duration,
    filled: Option<Filled>,
}

/// A proxy, and the filler of its core.
#[derive(Debug)]
struct Filled {
    processes: Processes,
    before: CpuTimes,
    _filler: Filler,
}

impl LostTimeMeter {
    /// Measures the core of this process, which must keep the core busy itself.
    pub(crate) fn own_core() -> Self {
        Self {
            begin: Instant::now(),
            own: own_cpu(),
            filled: None,
        }
    }

    /// Also measures the core of a proxy that runs before all other processes, and starts its
    /// filler.
    pub(crate) async fn both_cores(core: usize, proxy: Processes) -> Result<Self, Error> {
        let filler = Filler::start(core).await?;
        let processes = proxy.and(filler.processes());
        let mut meter = Self::own_core();
        meter.filled = Some(Filled {
            before: processes.cpu()?,
            processes,
            _filler: filler,
        });
        Ok(meter)
    }

    /// The kernel charges a thread on another core up to [`cpu::TICK`] late, and this time then
    /// looks lost. So the smallest of several readings is the best one.
    pub(crate) fn read(&self) -> LostTime {
        let lost = |worked: Duration| nanoseconds(self.begin.elapsed()) - nanoseconds(worked);
        let proxy = self.filled.as_ref().map_or(0, |filled| {
            let now = filled.processes.cpu();
            // The time of a proxy that has ended is not known.
            lost(now.map_or(Duration::ZERO, |now| now.since(&filled.before)))
        });
        LostTime {
            own: lost(own_cpu().saturating_sub(self.own)),
            proxy,
        }
    }
}

fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> i64 {
    duration.as_nanos().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_that_lost_more_counts() {
        let (before, after) = (LostTime { own: 5, proxy: 0 }, LostTime { own: 7, proxy: 9 });
        assert_eq!(after.since(before), Duration::from_nanos(9));
        assert_eq!(before.since(after), Duration::ZERO);
        assert_eq!(after.least(before), before);
    }

    #[test]
    fn a_filler_without_its_parent_ends() -> Result<(), Error> {
        // This process is not its own child.
        fill(id())
    }
}
