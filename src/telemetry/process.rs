//! The resource usage of the process, read from `/proc` at each export. Only on Linux.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::metrics::Meter;

use super::names;
use super::observed::gauge;

/// The unit of processor time in `/proc` (`USER_HZ`), independent of the kernel's tick.
const TICKS_PER_SECOND: f64 = 100.0;
const BYTES_PER_KIB: u64 = 1024;

pub(super) fn observe(meter: &Meter) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let start = now.unwrap_or_default().as_secs_f64();
    meter
        .f64_observable_gauge(names::PROCESS_START_TIME)
        .with_unit("s")
        .with_description("When the process started, since 1970")
        .with_callback(move |gauge| gauge.observe(start, &[]))
        .build();
    meter
        .f64_observable_counter(names::PROCESS_CPU_TIME)
        .with_unit("s")
        .with_description("Processor time of the process")
        .with_callback(|counter| {
            if let Some(seconds) = read("stat").as_deref().and_then(cpu_seconds) {
                counter.observe(seconds, &[]);
            }
        })
        .build();
    let memory = (
        names::PROCESS_MEMORY_USAGE,
        "By",
        "Resident memory of the process",
    );
    gauge(meter, memory, |gauge| {
        if let Some(bytes) = read("status").as_deref().and_then(resident_bytes) {
            gauge.observe(bytes, &[]);
        }
    });
    let files = (
        names::PROCESS_OPEN_FILE_DESCRIPTORS,
        "{file_descriptor}",
        "Open file descriptors, including sockets",
    );
    gauge(meter, files, |gauge| {
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            gauge.observe(entries.count() as u64, &[]);
        }
    });
}

fn read(file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// User and system time from `stat`. The second field is a name in parentheses with arbitrary
/// contents, so fields are counted from its end.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * BYTES_PER_KIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_after_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 8 0 99 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t    12 kB\n"),
            Some(12 * 1024)
        );
    }
}
