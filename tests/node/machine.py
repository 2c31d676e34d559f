"""The requirements of a node on this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# The needed programs, and their Debian packages.
TOOLS = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "iptables": "iptables",
    "openssl": "openssl",
    "runc": "runc",
    "unshare": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
CONTROLLERS = {"cpu", "memory", "pids"}
CGROUPS = Path("/sys/fs/cgroup")


def missing() -> str | None:
    """The reason why no node can run here, or None. Installs missing packages if possible."""
    if not sys.platform.startswith("linux"):
        return "a Kubernetes node needs Linux"
    if os.geteuid() != 0:
        return "a Kubernetes node needs root"
    if not CONTROLLERS <= _controllers():
        return f"the cgroups of this machine lack {', '.join(CONTROLLERS - _controllers())}"
    if shutil.which("kubectl") is None:
        return "kubectl is not installed"
    if absent := _without_tools():
        _install(absent)
    if absent := _without_tools():
        return f"{', '.join(absent)} not installed, and the installation failed"
    return _no_network_of_its_own()


def hierarchies() -> list[Path]:
    """The root directories of the cgroups: one of version 2, or one for each controller, or both."""
    mounted = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(path) for _, path, kind, *_ in mounted if kind in ("cgroup", "cgroup2")]


def _controllers() -> set[str]:
    version_2 = CGROUPS / "cgroup.controllers"
    if version_2.exists():
        return set(version_2.read_text().split())
    return {name for path in hierarchies() for name in path.name.split(",")}


def _without_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def _install(tools: list[str]) -> None:
    if shutil.which("apt-get") is None:
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    packages = [TOOLS[tool] for tool in tools]
    print(f"installing {', '.join(packages)}", flush=True)
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *command], env=environment, stdout=subprocess.DEVNULL)


def _no_network_of_its_own() -> str | None:
    attempt = "ip link add pods type bridge && iptables -t nat -L -n"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", attempt],
        capture_output=True, text=True,
    )
    return None if tried.returncode == 0 else f"no network namespace can be created here: {tried.stderr.strip()}"
