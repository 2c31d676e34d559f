"""A real Redis as a private process."""

import shutil
import socket
from pathlib import Path

import pytest
from harness.process import Process, free_port


class Redis:
    """A redis-server without files; `stop` it when done."""

    def __init__(self, folder: Path):
        program = shutil.which("redis-server")
        if not program:
            pytest.skip("redis-server is not installed")
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = Process("redis", [program, *options], {}, folder)
        self.process.start_until(self._is_up, "answers")

    def _is_up(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")

    def stop(self) -> None:
        self.process.stop()
