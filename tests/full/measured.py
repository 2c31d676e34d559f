"""Programs whose memory and metrics a suite looks at."""

import os
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    log = tempfile.TemporaryFile()
    return subprocess.Popen(
        arguments, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=ROOT
    )


def get(url: str, trust: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(url, timeout=10, context=trust) as answer:
        return answer.read().decode()


def resident(pid: int) -> int:
    """The memory of a process in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def wait_until(is_so: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass
        assert time.monotonic() < until, "the condition did not become true"
        time.sleep(0.1)
