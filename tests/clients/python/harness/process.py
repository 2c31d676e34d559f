"""Child processes: started, awaited, ended by their id."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

START_LIMIT = 30.0
"""Seconds that a process may take until it answers, unless it is given another limit."""


class DidNotStart(Exception):
    """A process ended, or never answered; the message has the end of its log."""


def eventually(condition: Callable[[], Any], what: str, limit: float = 5.0) -> Any:
    """Return the first true value of `condition`; fail with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"within {limit} s this did not happen: {what}"
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A port on which nothing listens.

    It is below those that Linux gives to outgoing connections: one of them could take the port of a server that is
    started again later.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


# The harness asks servers on loopback, whatever proxy the environment names.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(
    url: str,
    body: Any = None,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    limit: float = 10.0,
) -> tuple[int, bytes]:
    """Status and body; a refused or broken connection is an OSError."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with _opener.open(request, timeout=limit) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Process:
    """A server as a child process in a process group of its own, its output in a file."""

    def __init__(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        folder: Path,
        start_limit: float = START_LIMIT,
    ):
        self.name = name
        self._start_limit = start_limit
        self._command = command
        folder.mkdir(parents=True, exist_ok=True)
        # Nothing of the developer's own environment but what a process needs to run at all:
        # an OLLAMA_URL or a proxy there must not change what is tested.
        self._env = {"PATH": os.environ["PATH"], "HOME": str(folder), "RUST_BACKTRACE": "1", **env}
        self._log_path = folder / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, answers: str, expect: int | None = None) -> None:
        """Start it and wait until the URL `answers` is answered (with the status `expect`)."""

        def answered() -> bool:
            status, _ = ask(answers)
            return expect in (None, status)

        self.start_until(answered, f"answers {answers}")

    def start_until(self, is_up: Callable[[], bool], what: str) -> None:
        """Start it and wait until `is_up`, which may raise an OSError before."""
        if not Path(self._command[0]).exists():
            raise DidNotStart(f"{self._command[0]} is not there; `cargo build --workspace` makes it")
        with self._log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = self._child

        def ready() -> bool:
            if (code := child.poll()) is not None:
                raise DidNotStart(f"{self.name} ended with {code} at once:\n{self.log()[-4000:]}")
            with contextlib.suppress(OSError):
                return is_up()
            return False

        try:
            eventually(ready, f"{self.name} {what}", self._start_limit)
        except AssertionError as error:
            self.kill()
            raise DidNotStart(f"{error}:\n{self.log()[-4000:]}") from None

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def terminate(self) -> int:
        """SIGTERM, then the exit code; killed when it does not end in time."""
        assert self._child
        self._child.terminate()
        try:
            return self._child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            return self.kill()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._child
        self._child.send_signal(number)

    def kill(self) -> int:
        """SIGKILL to it and to the engines that it started."""
        assert self._child
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._child.wait()

    def stop(self) -> None:
        """End it, however it stands."""
        if self._child is not None and self._child.poll() is None:
            self.terminate()
        if self._child is not None:
            self.kill()
