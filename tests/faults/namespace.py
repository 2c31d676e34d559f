"""A simulated server in a network namespace of its own, whose packets can be dropped."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator

from .bench import Bench, NotHere, Process, built

NAME, NEAR, FAR, NETWORK = "llamatower-faults", "ltfaults0", "ltfaults1", "10.77.1"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class FarSim:
    url = f"http://{NETWORK}.2:11434"

    def drop_packets(self) -> None:
        """All packets to the server vanish from now on, those of open connections too."""
        run(*INSIDE, "iptables", "-I", "INPUT", "-p", "tcp", "-j", "DROP")
        run(*INSIDE, "iptables", "-I", "INPUT", "-p", "tcp", "--syn", "-j", "DROP")

    def connections_dropped(self) -> int:
        """How many SYN packets were dropped, repeated ones included."""
        text = run(*INSIDE, "iptables", "-L", "INPUT", "-n", "-v", "-x")
        return int(re.search(r"^\s*(\d+)", text.splitlines()[2])[1])


INSIDE = ("ip", "netns", "exec", NAME)


@contextlib.contextmanager
def sim(bench: Bench) -> Iterator[FarSim]:
    if not (shutil.which("ip") and shutil.which("iptables")):
        raise NotHere("it needs ip and iptables (Debian's iproute2 and iptables)")
    if subprocess.run(["ip", "netns", "add", NAME], capture_output=True).returncode:
        raise NotHere("it needs root and network namespaces")
    process = None
    try:
        run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", NAME)
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", NEAR)
        run("ip", "link", "set", NEAR, "up")
        run(*INSIDE, "ip", "addr", "add", f"{NETWORK}.2/24", "dev", FAR)
        run(*INSIDE, "ip", "link", "set", FAR, "up")
        command = [str(built("LLAMATOWER_SIM_BIN", "llamatower-sim")), "--listen", FarSim.url[7:]]
        command += ["--model", "tiny,slots=512,pace=1ms"]
        process = Process("far-sim", [shutil.which("ip"), *INSIDE[1:], *command], {}, bench.folder)
        process.start(f"{FarSim.url}/api/version", 200)
        yield FarSim()
    finally:
        if process:
            process.stop()
        subprocess.run(["ip", "link", "del", NEAR], capture_output=True)
        subprocess.run(["ip", "netns", "del", NAME], capture_output=True)
