"""The memory and CPU use of pods, and the effect of their limits."""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster

CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20


class MemoryWatch:
    """The largest working set of each pod in a namespace, from the kubelet."""

    def __init__(self, cluster: Cluster, namespace: str):
        self._cluster, self._namespace = cluster, namespace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most: dict[str, int] = {}

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(5):
            for name, now in self._cluster.memory(self._namespace).items():
                self.most[name] = max(self.most.get(name, 0), now)


@dataclass
class Limits:
    """The limits that the kernel enforces for one container, and their effect."""

    memory: int
    memory_peak: int
    cpus: float
    cpu_seconds: float
    periods: int
    throttled_periods: int
    throttled_seconds: float

    def __str__(self) -> str:
        throttled = 100 * self.throttled_periods / max(self.periods, 1)
        return (
            f"memory {self.memory_peak / MIB:.1f} of {self.memory / MIB:.0f} MiB at most, "
            f"{self.cpu_seconds:.1f} s of a CPU at {self.cpus} of one, "
            f"throttled in {throttled:.1f} % of the periods, {self.throttled_seconds:.2f} s in all"
        )


def limits(pod: dict) -> Limits | None:
    """Reads the cgroup of the pod's container, if the node is this machine."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    found = [path for path in CGROUPS.glob(f"**/*{container}*") if path.is_dir()]
    # If both versions are mounted, this one enforces nothing.
    found = [path for path in found if not path.is_relative_to(CGROUPS / "unified")]
    files = {file.name: file for path in found for file in path.glob("*") if file.is_file()}
    if "memory.max" in files:
        return _of_version_2(files)
    return _of_version_1(files) if "memory.limit_in_bytes" in files else None


def _of_version_2(files: dict[str, Path]) -> Limits:
    quota, period = files["cpu.max"].read_text().split()
    stat = _table(files["cpu.stat"])
    return Limits(
        memory=_number(files["memory.max"]),
        memory_peak=_number(files["memory.peak"]),
        cpus=int(quota) / int(period),
        cpu_seconds=stat["usage_usec"] / 1e6,
        periods=stat["nr_periods"],
        throttled_periods=stat["nr_throttled"],
        throttled_seconds=stat["throttled_usec"] / 1e6,
    )


def _of_version_1(files: dict[str, Path]) -> Limits:
    stat = _table(files["cpu.stat"])
    return Limits(
        memory=_number(files["memory.limit_in_bytes"]),
        memory_peak=_number(files["memory.max_usage_in_bytes"]),
        cpus=_number(files["cpu.cfs_quota_us"]) / _number(files["cpu.cfs_period_us"]),
        cpu_seconds=_number(files["cpuacct.usage"]) / 1e9,
        periods=stat["nr_periods"],
        throttled_periods=stat["nr_throttled"],
        throttled_seconds=stat["throttled_time"] / 1e9,
    )


def _number(file: Path) -> int:
    return int(file.read_text())


def _table(file: Path) -> Counter[str]:
    rows = (line.split() for line in file.read_text().splitlines())
    return Counter({name: int(value) for name, value in rows})
