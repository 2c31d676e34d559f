//! The memory limit of this process.

use std::fs;
use std::path::{Path, PathBuf};

/// The lowest of the cgroup limits and the machine's memory, in bytes.
pub(super) fn memory_limit() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    lowest_limit(read)
}

fn lowest_limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let cgroups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&cgroups)
        .into_iter()
        .filter_map(|path| read(&path)?.trim().parse().ok());
    let total = read(Path::new("/proc/meminfo")).and_then(|text| mem_total(&text));
    limits.chain(total).min()
}

/// The files that may contain a limit for a process in these cgroups. The limits of all ancestors
/// apply too. Inside a container the path is relative to a root that is not visible, so a missing
/// file is not an error.
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(ancestor).join(file));
        }
    }
    files
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine<'a>(files: &'a [(&str, &str)]) -> impl Fn(&Path) -> Option<String> + 'a {
        move |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(found.1.to_owned())
        }
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal:       24684092 kB\nMemFree:        22971544 kB\n",
    );

    #[test]
    fn a_pod_is_bound_by_its_own_limit() {
        let pod = machine(&[
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "268435456\n"),
            MEMINFO,
        ]);
        assert_eq!(lowest_limit(pod), Some(256 << 20));
    }

    #[test]
    fn a_service_is_bound_by_its_ancestors_too() {
        let service = machine(&[
            ("/proc/self/cgroup", "0::/system.slice/tower.service\n"),
            (
                "/sys/fs/cgroup/system.slice/tower.service/memory.max",
                "max\n",
            ),
            ("/sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
            MEMINFO,
        ]);
        assert_eq!(lowest_limit(service), Some(1 << 30));
    }

    #[test]
    fn cgroup_v1_writes_unlimited_as_a_huge_number() {
        let old = machine(&[
            ("/proc/self/cgroup", "5:cpuset:/\n4:cpu,memory:/job\n0::/\n"),
            (
                "/sys/fs/cgroup/memory/job/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            MEMINFO,
        ]);
        assert_eq!(lowest_limit(old), Some(24_684_092 * 1024));
    }

    #[test]
    fn without_readable_files_there_is_no_limit() {
        assert_eq!(lowest_limit(|_| None), None);
        assert_eq!(mem_total("MemTotal: lots"), None);
    }
}
