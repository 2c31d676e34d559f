"""A real Redis as a private process."""

import socket
from pathlib import Path

from .process import Process, free_port


class Redis:
    """A redis-server without files; `stop` it when done."""

    def __init__(self, program: str, folder: Path):
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
