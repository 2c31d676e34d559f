//! How long the two cores worked for something that is not measured.
//!
//! The machine has other work than a comparison, and its hypervisor has other machines: both take a
//! core away for some milliseconds now and then. What is late then is late without any fault of a
//! proxy. On a core that never rests it shows: whatever time the measured processes have not used
//! there, something else has. What a hypervisor took shows because Linux leaves the time that it
//! reports as stolen out of what it charges to threads; of one that reports none it goes unseen.

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

/// CPU time after which a filler has found its core and does nothing but fill it.
const SETTLED: Duration = Duration::from_millis(10);

/// A process that runs on a core whenever nothing else wants to, so that the core never rests.
#[derive(Debug)]
struct Filler(Child);

impl Filler {
    async fn start(core: usize) -> Result<Self, Error> {
        let mut command = cpu::command_on(core, Priority::Last);
        command.arg(env::current_exe()?);
        command.args(["fill", &id().to_string()]);
        let filler = Self(command.stdin(Stdio::null()).spawn()?);
        let begin = Instant::now();
        while filler.processes().cpu()?.sum() < SETTLED {
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

/// What a [`Filler`] does, for as long as its parent lives.
pub(crate) fn fill(parent: u32) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that.
    if getppid().map(Pid::as_raw_pid) != i32::try_from(parent).ok() {
        return Ok(());
    }
    loop {
        // Not `spin_loop`: hypervisors take a core away from who says that it waits.
        black_box(());
    }
}

/// What each core has lost since the beginning, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) own: i64,
    pub(crate) proxy: i64,
}

impl Lost {
    /// The least of two readings for each core.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            own: self.own.min(other.own),
            proxy: self.proxy.min(other.proxy),
        }
    }

    /// What the core that lost more has lost since an earlier reading.
    pub(crate) fn since(self, before: Self) -> Duration {
        let lost = (self.own - before.own).max(self.proxy - before.proxy);
        Duration::from_nanos(lost.try_into().unwrap_or(0))
    }
}

/// Tells what the cores have lost.
#[derive(Debug)]
pub(crate) struct LossMeter {
    begin: Instant,
    own: Duration,
    filled: Option<Filled>,
}

/// A proxy and what fills the rest of its core.
#[derive(Debug)]
struct Filled {
    processes: Processes,
    before: CpuTimes,
    _filler: Filler,
}

impl LossMeter {
    /// Of the core of this process, which has to keep it busy by itself.
    pub(crate) fn of_own() -> Self {
        Self {
            begin: Instant::now(),
            own: own_cpu(),
            filled: None,
        }
    }

    /// Also of the core of a proxy that runs before all others, which is filled meanwhile.
    pub(crate) async fn of_both(core: usize, proxy: Processes) -> Result<Self, Error> {
        let filler = Filler::start(core).await?;
        let processes = proxy.and(filler.processes());
        let mut meter = Self::of_own();
        meter.filled = Some(Filled {
            before: processes.cpu()?,
            processes,
            _filler: filler,
        });
        Ok(meter)
    }

    /// What the kernel has charged to a thread that runs on another core lags behind by up to
    /// [`cpu::TICK`], which then seems lost: the least of some readings is the truest.
    pub(crate) fn read(&self) -> Lost {
        let lost = |worked: Duration| nanoseconds(self.begin.elapsed()) - nanoseconds(worked);
        let proxy = self.filled.as_ref().map_or(0, |filled| {
            let now = filled.processes.cpu();
            // Of a proxy that has ended nothing is known.
            lost(now.map_or(Duration::ZERO, |now| now.since(&filled.before)))
        });
        Lost {
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
    fn the_core_that_lost_more_tells() {
        let (before, after) = (Lost { own: 5, proxy: 0 }, Lost { own: 7, proxy: 9 });
        assert_eq!(after.since(before), Duration::from_nanos(9));
        assert_eq!(before.since(after), Duration::ZERO);
        assert_eq!(after.least(before), before);
    }

    #[test]
    fn whose_parent_has_ended_does_not_run() -> Result<(), Error> {
        // Nobody's child is its own.
        fill(id())
    }
}
