//! How long the two cores worked for something that is not measured.
//!
//! The machine has other work than a comparison, and its hypervisor has other machines: both take a
//! core away for some milliseconds now and then, the second unseen. What is late then is late without
//! any fault of a proxy. A core that never rests shows it: whatever time the measured processes have
//! not used there, something else has.

use std::{
    env,
    hint::black_box,
    io,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    time::{ClockId, clock_gettime},
};

use crate::{
    Error,
    cpu::{self, Processes},
};

/// A process that runs on a core whenever nothing else wants to, so that the core never rests.
#[derive(Debug)]
struct Filler(Child);

impl Filler {
    fn start(core: usize) -> Result<Self, Error> {
        let mut command = cpu::command_on(core, cpu::Priority::Last);
        command.arg(env::current_exe()?).arg("fill");
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    fn process(&self) -> Processes {
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
pub(crate) fn fill() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Not `spin_loop`: hypervisors take a core away from who says that it waits.
    loop {
        black_box(());
    }
}

/// The time that was lost on the cores since they were last asked.
#[derive(Debug)]
pub(crate) struct Lost {
    /// All that runs on the proxy's core, if it never rests.
    proxy: Option<Processes>,
    _filler: Option<Filler>,
    asked: Instant,
    worked: [Option<Duration>; 2],
}

impl Lost {
    /// On the core of this process, which has to keep it busy by itself.
    pub(crate) fn on_own() -> Self {
        Self::start(None, None)
    }

    /// Also on the core of a proxy that runs before all others, which is filled meanwhile.
    pub(crate) async fn on_both(core: usize, proxy: Processes) -> Result<Self, Error> {
        let filler = Filler::start(core)?;
        // Until it is bound and does nothing but that.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let proxy = proxy.and(filler.process());
        Ok(Self::start(Some(proxy), Some(filler)))
    }

    fn start(proxy: Option<Processes>, filler: Option<Filler>) -> Self {
        let mut lost = Self {
            proxy,
            _filler: filler,
            asked: Instant::now(),
            worked: [None; 2],
        };
        lost.worked = lost.read();
        lost
    }

    fn read(&self) -> [Option<Duration>; 2] {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let proxy = self.proxy.as_ref();
        [
            Duration::try_from(own).ok(),
            proxy.map_or(Some(Duration::ZERO), |proxy| proxy.cpu().ok()),
        ]
    }

    /// That of the core that lost more; all of it, if that cannot be told.
    pub(crate) fn take(&mut self) -> Duration {
        let (now, worked) = (Instant::now(), self.read());
        let (before, took) = (self.worked, now - self.asked);
        (self.asked, self.worked) = (now, worked);
        let lost = |nth: usize| match (before[nth], worked[nth]) {
            (Some(before), Some(worked)) => took.saturating_sub(worked.saturating_sub(before)),
            _ => took,
        };
        if self.proxy.is_some() {
            lost(0).max(lost(1))
        } else {
            lost(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn of_a_proxy_that_has_ended_all_time_is_lost() -> Result<(), Error> {
        let mut ended = Command::new("true").spawn()?;
        ended.wait()?;
        let mut lost = Lost::start(Some(Processes::one(ended.id())), None);
        let begin = lost.asked;
        assert_eq!(lost.take(), lost.asked - begin);
        Ok(())
    }
}
