"""Runs the image as a container runtime would: its own root, which is read-only, and its own user.

The arguments are the root of its files, a simulated Ollama and, where the image is for another
architecture, the emulator in that root.
"""

import contextlib
import errno
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT, SIMULATED, *EMULATOR = sys.argv[1:]
# Below the ports that the kernel takes for connections, any of which may be in use.
OLLAMA, GATEWAY = "127.0.0.1:21601", "127.0.0.1:21600"
PROGRAM = [*EMULATOR, "/usr/bin/llamatower"]
SETTINGS = {"LLAMATOWER_LISTEN": GATEWAY, "LLAMATOWER_ADMIN_LISTEN": "off", "OLLAMA_URL": f"http://{OLLAMA}"}
LONGEST_START = 0.1


def enter() -> None:
    os.chroot(ROOT)
    os.chdir("/")
    os.setgroups([])
    os.setgid(65532)
    os.setuid(65532)


def run(*arguments: str, settings: dict[str, str] | None = None) -> str:
    """What it prints, where it ends well."""
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, preexec_fn=enter, env=settings or {}, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def running(command: list[str], **options: object) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


def gateway() -> contextlib.AbstractContextManager[subprocess.Popen]:
    return running(PROGRAM, preexec_fn=enter, env=SETTINGS)


def seconds_until_ready(process: subprocess.Popen, begun: float, page: str = f"{GATEWAY}/health") -> float:
    while True:
        try:
            urllib.request.urlopen(f"http://{page}", timeout=1).close()
            return time.monotonic() - begun
        except OSError:
            assert process.poll() is None, "it ended"
            assert time.monotonic() - begun < 10, "it is not ready after ten seconds"
            time.sleep(0.001)


def start_once() -> float:
    begun = time.monotonic()
    with gateway() as process:
        seconds = seconds_until_ready(process, begun)
    assert process.returncode == 0
    return seconds


def complete() -> str:
    """What a client gets that asks for a completion."""
    body = json.dumps({"model": "tiny", "prompt": "x", "stream": False}).encode()
    with urllib.request.urlopen(f"http://{GATEWAY}/api/generate", data=body, timeout=10) as answer:
        return json.load(answer)["response"]


def is_read_only() -> bool:
    try:
        (Path(ROOT) / "tmp" / "x").touch()
    except OSError as error:
        return error.errno == errno.EROFS
    return False


def main() -> None:
    assert is_read_only()
    print(run("--version").strip())
    assert "OLLAMA_URL" in run("check")
    starts = [start_once() for _ in range(5)]
    print("ready after", ", ".join(f"{1000 * seconds:.0f}" for seconds in starts), "ms")
    # What an emulator translates first says nothing of the program.
    assert EMULATOR or statistics.median(starts) < LONGEST_START
    with running([SIMULATED, "--listen", OLLAMA, "--model", "tiny"]) as ollama:
        seconds_until_ready(ollama, time.monotonic(), f"{OLLAMA}/api/version")
        with gateway() as process:
            seconds_until_ready(process, time.monotonic())
            assert complete()
            run("healthcheck", settings=SETTINGS)
            run("sleep", "0")


main()
